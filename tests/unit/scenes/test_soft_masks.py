"""Shaping and softening masks: by hand, neutral settings change nothing, what is left on a grid."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from conceptloom.errors import ConfigError, MaskError
from conceptloom.scenes.masks import mask_on_grid
from conceptloom.scenes.soft_masks import SoftMaskConfig, shaped_mask, weights_on_grid
from conceptloom.viz.soft_mask_preview import MOST_MASKS, describe_weights, soft_mask_preview


def square(side: int = 24, top: int = 8, size: int = 8) -> Tensor:
    mask = torch.zeros(side, side)
    mask[top : top + size, top : top + size] = 1
    return mask


def shaped(mask: Tensor, **settings: Any) -> Tensor:
    return shaped_mask(mask, SoftMaskConfig(**settings))[0]


def test_neutral_settings_leave_the_mask_as_it_is_and_do_not_touch_it() -> None:
    mask = torch.rand(3, 16, 20)
    before = mask.clone()
    found = shaped_mask(mask, SoftMaskConfig())
    assert torch.equal(found, mask)
    found += 1
    assert torch.equal(mask, before)


def test_growing_is_a_disc_and_shrinking_takes_it_away() -> None:
    dot = torch.zeros(15, 15)
    dot[7, 7] = 1
    rows, columns = torch.meshgrid(torch.arange(15) - 7, torch.arange(15) - 7, indexing="ij")
    assert torch.equal(shaped(dot, grow_px=4), (rows**2 + columns**2 <= 16).float())
    grown = shaped(square(), grow_px=3)
    assert torch.equal(shaped(grown, grow_px=-3) >= square(), torch.ones(24, 24, dtype=torch.bool))
    assert torch.equal(shaped(square(), grow_px=-2), square(top=10, size=4))
    assert float(shaped(square() * 0.7, grow_px=1).max()) == pytest.approx(0.7)  # grey stays grey


def test_at_the_border_a_mask_goes_on() -> None:
    edge = torch.zeros(12, 12)
    edge[:, :6] = 1
    assert torch.equal(shaped(edge, grow_px=-2)[:, :4], torch.ones(12, 4))
    assert float(shaped(edge, feather_px=1.0)[:, 0].min()) == pytest.approx(1)


def test_feathering_is_a_blur_that_keeps_the_half_where_the_edge_was() -> None:
    edge = torch.zeros(41, 41)
    edge[:, :20] = 1
    soft = shaped(edge, feather_px=3.0)[20]
    assert float(soft[19] + soft[20]) == pytest.approx(1, abs=1e-5)
    # of a Gaussian edge, 0.5 + 0.5 erf(x / (s sqrt 2)), three pixels in
    expected = 0.5 + 0.5 * math.erf(2.5 / (3 * 2**0.5))
    assert float(soft[17]) == pytest.approx(expected, abs=0.01)
    assert (soft[1:] <= soft[:-1] + 1e-6).all()


def test_invert_comes_first_and_the_threshold_next() -> None:
    mask = torch.tensor([[0.0, 0.2, 0.5], [0.6, 0.9, 1.0]])
    assert torch.equal(shaped(mask, invert=True), 1 - mask)
    assert shaped(mask, threshold=0.5).tolist() == [[0, 0, 0], [1, 1, 1]]
    assert shaped(mask, invert=True, threshold=0.5).tolist() == [[1, 1, 0], [0, 0, 0]]


def test_a_batch_is_shaped_mask_by_mask() -> None:
    batch = torch.stack([square(), square(top=4, size=12)])
    settings = SoftMaskConfig(grow_px=2, feather_px=1.5, threshold=0.3)
    both = shaped_mask(batch, settings)
    for row, mask in zip(both, batch, strict=True):
        assert torch.allclose(row, shaped_mask(mask, settings)[0])


def test_weights_on_a_grid_inside_and_outside() -> None:
    seen = weights_on_grid(square(32, 8, 16), (8, 8), 0.5)
    assert seen.weights.shape == (8, 8)
    assert (seen.inside, seen.outside, seen.share) == (1.0, 0.5, 0.25)
    full = weights_on_grid(torch.ones(32, 32), (8, 8), 0.5)
    assert (full.inside, full.share) == (1.0, 1.0)
    assert math.isnan(full.outside)


def test_what_is_thinner_than_a_cell_does_not_vanish() -> None:
    line = torch.zeros(32, 32)
    line[:, 9] = 1  # bilinear looks at the columns 3, 4, 11, 12, ... of cells of 8
    for mode in ("nearest", "bilinear"):
        found = mask_on_grid(line, (4, 4), mode)
        assert found.tolist() == [[0, 1, 0, 0]] * 4


@pytest.mark.parametrize(
    ("mask", "settings", "told"),
    [
        (torch.zeros(8, 8), {}, "Mask 1 is empty: nothing is painted"),
        (torch.ones(8, 8), {"invert": True}, "is empty; .*turn invert off"),
        (torch.full((8, 8), 0.3), {"threshold": 0.5}, "is empty; .*lower the threshold"),
        (torch.stack([square(), square(size=2)]), {"grow_px": -3}, "Mask 2 is empty after"),
        (torch.full((8, 8), float("nan")), {}, "NaN or infinite"),
        (torch.zeros(1, 8, 8, 3), {}, r"has the shape \[1, 8, 8, 3\]"),
        (torch.zeros(0, 8, 8), {}, r"has the shape \[0, 8, 8\]"),
    ],
)
def test_masks_that_cannot_be_shaped_are_reported(
    mask: Tensor, settings: dict[str, Any], told: str
) -> None:
    with pytest.raises(MaskError, match=told):
        shaped_mask(mask, SoftMaskConfig(**settings))


@pytest.mark.parametrize(
    ("name", "value"),
    [("threshold", 1.5), ("feather_px", -1.0), ("background_weight", float("nan"))],
)
def test_bad_settings_are_reported(name: str, value: float) -> None:
    with pytest.raises(ConfigError, match=name.removesuffix("_px")):
        SoftMaskConfig(**{name: value})


def test_the_preview_shows_the_weights_and_tells_them() -> None:
    grids = {"pixels": (24, 24), "latents": (6, 6)}
    dark, light = (soft_mask_preview(square()[None], a, grids) for a in (0.0, 0.9))
    assert dark.ndim == 3
    assert dark.shape == light.shape
    corner = (slice(24, 60), slice(24, 60))  # of the first panel, outside of the region
    assert float(dark[corner].mean()) < 0.02
    assert float(light[corner].mean()) == pytest.approx(0.9, abs=0.02)
    told = describe_weights(square()[None], 0.5, grids)
    assert told.splitlines()[0] == (
        "mask 1, pixels 24x24: inside 1.00, outside 0.50 (counts 0.25), 11 % of it inside"
    )
    assert "outside nothing" in describe_weights(torch.ones(1, 8, 8), 0.5, {"pixels": (8, 8)})
    faint = describe_weights(torch.full((1, 8, 8), 0.3), 0.5, {"pixels": (8, 8)})
    assert "8x8: inside nothing, outside 0.65 (counts 0.42), 0 % of it inside" in faint
    many = soft_mask_preview(square().repeat(MOST_MASKS + 3, 1, 1), 0.5, grids)
    assert many.shape[0] > dark.shape[0]
