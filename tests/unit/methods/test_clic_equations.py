"""CLiC's equations on numbers that a person can check."""

from __future__ import annotations

import pytest
import torch

from conceptloom.methods.clic.losses import area_loss, attention_loss, outside_weighted
from conceptloom.scenes.soft_masks import soft_mask
from conceptloom.training.losses import masked_loss


def test_a_soft_mask_by_hand() -> None:
    mask = torch.tensor([0.0, 0.5, 1.0])
    assert soft_mask(mask, 0.5).tolist() == [0.5, 0.75, 1.0]
    assert soft_mask(mask, 0.0).tolist() == mask.tolist()
    assert soft_mask(mask, 1.0).tolist() == [1, 1, 1]


def test_around_the_region_the_error_counts_alpha_squared() -> None:
    error = torch.zeros(1, 1, 1, 2)
    error[..., 0], error[..., 1] = 2.0, 4.0  # inside, outside
    mask = torch.tensor([1.0, 0.0]).view(1, 1, 1, 2)
    # (1 * 2)^2 and (.5 * 4)^2, over two latents
    paper = masked_loss(error, error * 0, soft_mask(mask, 0.5))
    assert paper.item() == (4 + 4) / 2
    # 4 * 1 + 16 * .25 over weights 1 + .25
    official = area_loss(error, error * 0, outside_weighted(mask, 0.5))
    assert official.item() == pytest.approx((4 + 4) / 1.25)


def test_no_edge_counts_less_than_what_lies_beyond_it() -> None:
    mask = torch.tensor([0.0, 0.04, 0.06, 0.7, 1.0])
    assert outside_weighted(mask, 0.5).tolist() == pytest.approx([0.25, 0.25, 0.25, 0.7, 1.0])
    assert outside_weighted(mask, 1.0).tolist() == [1] * 5
    assert torch.equal(outside_weighted(mask, 0.0), mask)


def test_the_area_loss_counts_channels_and_knows_an_empty_mask() -> None:
    predicted, ones = torch.full((1, 4, 2, 2), 3.0), torch.ones(1, 1, 2, 2)
    assert area_loss(predicted, predicted * 0, ones).item() == pytest.approx(4 * 9)
    assert area_loss(predicted, predicted * 0, ones * 0).item() == 0
    half = torch.tensor([1.0, 0.0]).view(1, 1, 1, 2).expand(1, 1, 2, 2)
    assert area_loss(predicted, predicted * 0, half).item() == pytest.approx(4 * 9)


def test_attention_loss_by_hand() -> None:
    maps = torch.tensor([[[0.3, 0.1], [0.2, 0.1]]])
    masks = torch.tensor([[[1.0, 0.0], [0.0, 0.0]]])
    # stretched: [1, 0, .5, 0]; .25 / 4
    assert attention_loss(maps, masks).item() == pytest.approx(0.0625)
    flat = torch.full((1, 2, 2), 0.2, requires_grad=True)  # divides by 0 in the official code
    loss = attention_loss(flat, masks)
    loss.backward()
    assert loss.item() == pytest.approx(0.25)
    assert flat.grad is not None
    assert flat.grad.isfinite().all()
