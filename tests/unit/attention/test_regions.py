"""Regions: dilated, dense where they meet, and always summing to exactly 1."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from conceptloom.attention.regions import Priority, at_grid, region_masks, with_background
from conceptloom.errors import MaskError


def box(rows: slice, columns: slice, size: tuple[int, int] = (12, 16)) -> Tensor:
    mask = torch.zeros(size)
    mask[rows, columns] = 1
    return mask


LEFT, RIGHT = box(slice(3, 9), slice(1, 6)), box(slice(3, 9), slice(8, 14))


def test_alone_a_mask_is_dilated_and_the_rest_is_background() -> None:
    found = region_masks([LEFT], ["one"], dilate_px=2)
    assert torch.equal(found[0], box(slice(1, 11), slice(0, 8)))
    assert torch.equal(found[1], 1 - found[0])


def test_without_dilation_the_dense_masks_stay() -> None:
    found = region_masks([LEFT, RIGHT], ["one", "two"])
    assert torch.equal(found, torch.stack([LEFT, RIGHT, 1 - LEFT - RIGHT]))


def test_where_dilated_masks_overlap_the_dense_ones_are_kept() -> None:
    # LEFT grows to column 8, RIGHT back to column 5: columns 5 to 8 are contested
    found = region_masks([LEFT, RIGHT], ["one", "two"], dilate_px=3)
    middle = slice(3, 9)
    assert torch.equal(found[0][middle, 5:9], LEFT[middle, 5:9])
    assert torch.equal(found[1][middle, 5:9], RIGHT[middle, 5:9])
    assert (found[2][middle, 6:8] == 1).all()  # neither is there, so it is background
    assert (found[0][middle, :5] == 1).all()  # uncontested, dilated
    assert (found[0][0] == torch.tensor([1.0] * 5 + [0.0] * 11)).all()


@pytest.mark.parametrize(
    ("priority", "expected"),
    [(Priority.FIRST, (1, 0)), (Priority.LAST, (0, 1)), (Priority.SHARED, (0.5, 0.5))],
)
def test_priority_settles_what_the_dense_masks_share(
    priority: Priority, expected: tuple[float, float]
) -> None:
    other = box(slice(3, 9), slice(4, 10))
    found = region_masks([LEFT, other], ["one", "two"], priority=priority)
    assert found[:2, 5, 4].tolist() == list(expected)
    assert found[:, 5, 2].tolist() == [1, 0, 0]


@pytest.mark.parametrize("grid", [(12, 16), (6, 8), (5, 7), (3, 4), (1, 1), (24, 32)])
@pytest.mark.parametrize("n", [1, 2, 3, 4])
@pytest.mark.parametrize("priority", list(Priority))
def test_sums_are_exactly_one_at_every_size(
    grid: tuple[int, int], n: int, priority: Priority
) -> None:
    generator = torch.Generator().manual_seed(n)
    soft = list(torch.rand(n, 12, 16, generator=generator))
    found = at_grid(
        region_masks(soft, [str(i) for i in range(n)], dilate_px=1, priority=priority), grid
    )
    assert found.shape == (n + 1, *grid)
    assert found.min() >= 0
    for order in (found, found.flip(0)):
        for dtype in (torch.float32, torch.float16):
            total = torch.zeros(grid, dtype=dtype)
            for mask in order:
                total += mask.to(dtype)
            assert (total == 1).all()


def test_thirds_leave_no_background() -> None:
    found = with_background(torch.full((3, 2, 2), 1 / 3))
    assert (found.sum(dim=0) == 1).all()
    assert (found[3] == 0).all()


def test_a_thin_region_weakens_but_stays() -> None:
    thin = box(slice(0, 12), slice(3, 4))
    assert at_grid(region_masks([thin], ["one"]), (3, 4))[0, :, 0].tolist() == [0.25] * 3


def test_bad_masks_are_refused_by_name() -> None:
    with pytest.raises(MaskError, match="region of <cat> is empty"):
        region_masks([LEFT, torch.zeros(12, 16)], ["<mug>", "<cat>"])
    with pytest.raises(MaskError, match="1 masks came for 2"):
        region_masks([LEFT], ["<mug>", "<cat>"])
    with pytest.raises(MaskError, match="the same size"):
        region_masks([LEFT, torch.ones(4, 4)], ["<mug>", "<cat>"])
    with pytest.raises(MaskError, match="NaN"):
        region_masks([LEFT, LEFT / 0], ["<mug>", "<cat>"])
    with pytest.raises(MaskError, match="at least one"):
        region_masks([], [])
    with pytest.raises(MaskError, match="cover the region of <cat> completely"):
        region_masks([LEFT, LEFT], ["<mug>", "<cat>"])
