"""IoU and leak, by hand on four by four cells."""

from __future__ import annotations

import math

import pytest
import torch

from conceptloom.attention.metrics import attention_scores
from conceptloom.errors import MaskError


def left_half(side: int = 4) -> torch.Tensor:
    mask = torch.zeros(side, side)
    mask[:, : side // 2] = 1
    return mask


def test_a_map_that_is_its_mask_is_perfect() -> None:
    assert attention_scores(0.003 * left_half(), left_half()) == (1.0, 0.0)


def test_a_map_that_is_elsewhere_scores_nothing() -> None:
    # all attention on the right half: share outside 1, area outside 1/2
    assert attention_scores(1 - left_half(), left_half()) == (0.0, 2.0)


def test_iou_counts_cells_above_half_of_the_maximum() -> None:
    heat = torch.zeros(4, 4)
    heat[0] = torch.tensor([1.0, 0.5, 0.5, 0.49])  # three hot cells, two of them in the mask of 8
    assert attention_scores(heat, left_half()).iou == pytest.approx(2 / (8 + 1))


def test_leak_is_relative_to_the_area_outside() -> None:
    heat = torch.zeros(4, 4)
    heat[0, 0], heat[0, 3] = 3.0, 1.0  # a quarter of the attention lies in the half outside
    assert attention_scores(heat, left_half()).leak == pytest.approx(0.25 / 0.5)


@pytest.mark.parametrize("n_columns", [1, 3])
def test_a_word_that_looks_everywhere_has_leak_one_whatever_the_size(n_columns: int) -> None:
    mask = torch.zeros(4, 4)
    mask[:, :n_columns] = 1
    iou, leak = attention_scores(torch.full((4, 4), 0.2), mask)
    assert leak == pytest.approx(1.0)
    assert iou == pytest.approx(n_columns / 4)  # every cell is hot


def test_neither_depends_on_the_scale_of_the_map() -> None:
    heat = torch.rand(5, 7, generator=torch.Generator().manual_seed(0))
    mask = (torch.rand(5, 7, generator=torch.Generator().manual_seed(1)) > 0.5).float()
    assert attention_scores(heat, mask) == pytest.approx(attention_scores(1e-4 * heat, mask))


def test_soft_masks_leak_by_their_values() -> None:
    heat = torch.tensor([[1.0, 1.0]])
    mask = torch.tensor([[1.0, 0.5]])  # outside: 0.5 of 2 attention, and of 2 cells
    assert attention_scores(heat, mask).leak == pytest.approx(1.0)


def test_a_mask_in_pixels_is_averaged_over_the_cells() -> None:
    mask = torch.zeros(8, 12)
    mask[:, :6] = 1
    heat = torch.zeros(2, 4)
    heat[:, :2] = 1
    assert attention_scores(heat, mask) == (1.0, 0.0)
    mask[:, 6:8] = 1  # two thirds of the third column of cells now belong to it
    assert attention_scores(heat, mask).iou == pytest.approx(4 / 6)


def test_edges_have_plain_answers() -> None:
    heat = torch.rand(4, 4, generator=torch.Generator().manual_seed(0)) + 0.1
    assert attention_scores(torch.zeros(4, 4), left_half()) == (0.0, 1.0)
    assert attention_scores(heat, torch.ones(4, 4)).leak == 0.0
    assert attention_scores(heat, torch.zeros(4, 4)) == pytest.approx((0.0, 1.0))
    heat[1, 1] = math.nan
    assert all(math.isnan(score) for score in attention_scores(heat, left_half()))


def test_a_batch_is_refused_with_advice() -> None:
    with pytest.raises(MaskError, match="at a time"):
        attention_scores(torch.rand(2, 4, 4), left_half())


def test_gradients_stay_outside() -> None:
    heat = torch.rand(4, 4, requires_grad=True)
    assert attention_scores(heat, left_half()).leak > 0
    assert heat.grad is None
