"""What is done to masks, by hand on planes that a person can check."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from conceptloom.scenes.masks import (
    blur,
    dilate,
    dilate_disc,
    erode,
    erode_disc,
    has_same_aspect,
    open_mask,
    resize_masks,
)

REACHES = [1, 2, 4]


def noise(*shape: int) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0))


def by_hand(plane: Tensor, inside: Tensor, *, largest: bool, beyond: float | None = None) -> Tensor:
    """Largest or smallest value among the neighbours of every cell that `inside` marks."""
    reach = inside.shape[0] // 2
    height, width = plane.shape
    result = torch.empty_like(plane)
    for y in range(height):
        for x in range(width):
            seen = []
            for dy in range(-reach, reach + 1):
                for dx in range(-reach, reach + 1):
                    there = 0 <= y + dy < height and 0 <= x + dx < width
                    if inside[dy + reach, dx + reach]:
                        if there:
                            seen.append(plane[y + dy, x + dx])
                        elif beyond is not None:
                            seen.append(torch.tensor(beyond))
            stack = torch.stack(seen)
            result[y, x] = stack.max() if largest else stack.min()
    return result


def disc(radius: int) -> Tensor:
    steps = torch.arange(-radius, radius + 1)
    return steps[:, None] ** 2 + steps[None] ** 2 <= radius**2


@pytest.mark.parametrize("reach", REACHES)
def test_squares_and_discs_hold_the_extremes_of_their_cells(reach: int) -> None:
    plane, square = noise(9, 11), torch.ones(2 * reach + 1, 2 * reach + 1, dtype=torch.bool)
    assert torch.equal(dilate(plane, reach), by_hand(plane, square, largest=True))
    assert torch.equal(erode(plane, reach), by_hand(plane, square, largest=False))
    around = by_hand(plane, square, largest=False, beyond=0.0)
    assert torch.equal(erode(plane, reach, beyond=0.0), around)
    round_ = disc(reach)
    assert torch.equal(dilate_disc(plane[None], reach)[0], by_hand(plane, round_, largest=True))
    assert torch.equal(erode_disc(plane[None], reach)[0], by_hand(plane, round_, largest=False))


def test_every_leading_shape_is_taken_and_nothing_is_modified() -> None:
    planes = noise(2, 3, 8, 8)
    before = planes.clone()
    for changed in (
        dilate(planes, 2),
        erode(planes, 2),
        erode(planes, 2, beyond=0),
        open_mask(planes, 1),
    ):
        assert changed.shape == planes.shape
        assert not torch.equal(changed, planes)
    assert torch.equal(dilate(planes, 2)[1, 2], dilate(planes[1, 2], 2))
    torch.testing.assert_close(blur(planes, 1.0, 3)[1, 2], blur(planes[1, 2], 1.0, 3))
    assert torch.equal(planes, before)


def test_a_reach_of_zero_changes_nothing() -> None:
    plane = noise(6, 6)
    for same in (dilate(plane, 0), erode(plane, 0), erode(plane, 0, beyond=0), open_mask(plane, 0)):
        assert torch.equal(same, plane)


def test_opening_takes_what_is_thin_and_leaves_the_rest() -> None:
    plane = torch.zeros(12, 12)
    plane[2:8, 2:8] = 1
    line = plane.clone()
    line[4, :] = 1
    assert torch.equal(open_mask(line, 1), plane)


def test_a_blur_keeps_the_sum_and_is_the_gaussian() -> None:
    plane = torch.zeros(15, 15)
    plane[7, 7] = 1
    soft = blur(plane, 1.5, 5)
    assert float(soft.sum()) == pytest.approx(1, abs=1e-6)
    assert float(soft[7, 9] / soft[7, 7]) == pytest.approx(float(torch.tensor(-2 / 1.5**2).exp()))
    flat = torch.full((4, 5), 0.3)
    torch.testing.assert_close(blur(flat, 2.0, 4), flat)


def test_aspects_within_two_percent_are_the_same() -> None:
    assert has_same_aspect((100, 200), (50, 100))
    assert has_same_aspect((100, 201), (50, 100))
    assert not has_same_aspect((100, 205), (50, 100))
    assert not has_same_aspect((100, 200), (100, 100))


def test_a_smaller_mask_averages_what_it_covers() -> None:
    masks = torch.zeros(1, 8, 8)
    masks[0, :, :4] = 1
    small = resize_masks(masks, (2, 2))
    assert small.shape == (1, 2, 2)
    assert float(small.mean()) == pytest.approx(0.5)
