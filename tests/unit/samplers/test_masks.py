"""Masks of a picture: fitted, refused, shared out, and exact at the seam."""

from __future__ import annotations

import math

import pytest
import torch

from conceptloom.errors import ImageError, MaskError
from conceptloom.samplers.masks import (
    composited,
    latent_masks,
    picture_masks,
    region_weights,
    seam,
)


def square(side: int = 16, low: int = 4, high: int = 12) -> torch.Tensor:
    mask = torch.zeros(side, side)
    mask[low:high, low:high] = 1
    return mask


def test_a_mask_of_the_same_aspect_is_stretched_to_its_picture():
    found = picture_masks(square(), (32, 32))
    assert found.shape == (1, 32, 32)
    assert found[0, 16, 16] == 1
    assert found[0, 1, 1] == 0


@pytest.mark.parametrize(
    ("mask", "told"),
    [
        (torch.zeros(16, 16), "The mask is empty"),
        (torch.stack([square(), torch.zeros(16, 16)]), "Mask 2 of 2 is empty"),
        (torch.ones(16, 24), "The mask is 24x16 but the picture 16x16"),
        (torch.full((16, 16), math.nan), "NaN or infinite"),
        (torch.ones(1, 1, 16, 16), "has the shape"),
    ],
)
def test_masks_that_cannot_be_used_are_reported(mask: torch.Tensor, told: str):
    with pytest.raises(MaskError, match=told):
        picture_masks(mask, (16, 16))


def test_latent_cells_count_how_much_of_them_is_covered():
    mask = torch.zeros(1, 4, 4)
    mask[0, 0, 0] = 1
    assert latent_masks(mask, (2, 2)).tolist() == [[[[0.25, 0.0], [0.0, 0.0]]]]


def test_regions_share_every_cell_and_sum_to_one():
    masks = torch.tensor([[[[1.0, 0.5, 0.0]]], [[[0.0, 0.5, 0.0]]]])
    shares = region_weights(masks)
    assert shares.tolist() == [[[[1.0, 0.5, 0.5]]], [[[0.0, 0.5, 0.5]]]]


def test_the_seam_ramps_on_the_inside_only():
    mask = square()
    weight = seam(mask, 3)
    assert torch.equal(weight > 0, mask > 0)
    assert weight[8, 4:8].tolist() == [0.25, 0.5, 0.75, 1.0]
    assert torch.equal(seam(mask, 0), mask)


def test_the_border_of_the_picture_is_no_edge():
    assert torch.equal(seam(torch.ones(8, 8), 4), torch.ones(8, 8))


@pytest.mark.parametrize("feather", [0, 3])
def test_outside_of_the_mask_the_source_stays_bit_for_bit(feather: int):
    drawn, source, mask = torch.rand(2, 16, 16, 3), torch.rand(1, 16, 16, 3), square()
    found = composited(drawn, source, mask, feather)
    outside = mask == 0
    assert torch.equal(found[:, outside], source.expand(2, -1, -1, -1)[:, outside])
    assert torch.allclose(found[:, 8, 8], drawn[:, 8, 8])


def test_pictures_of_different_size_are_not_composited():
    with pytest.raises(ImageError, match="drawn picture is 16x16 and the source 8x8"):
        composited(torch.rand(1, 16, 16, 3), torch.rand(1, 8, 8, 3), square(), 0)
