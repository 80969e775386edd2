"""One change of low rank, whoever applies it."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from conceptloom.concepts.low_rank import LowRank
from conceptloom.host.ports import FactoredEdit


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_every_way_of_applying_it_is_the_same_change() -> None:
    low, weight, inputs = LowRank(random(6, 2), random(2, 5), 0.5), random(6, 5), random(3, 4, 5)
    expected = F.linear(inputs, weight + low.delta(weight.shape))
    output = F.linear(inputs, weight)
    up, down = low.factors
    for other in (
        F.linear(inputs, low.added_to(weight)),
        output + low.apply(inputs),
        low.added_to_output(inputs, output),
        output + inputs @ down.T @ up.T,
    ):
        torch.testing.assert_close(other, expected, rtol=1e-5, atol=1e-5)
    assert low.shape == weight.shape


def test_a_mask_in_the_narrow_middle_is_one_on_the_result() -> None:
    low, inputs, mask = LowRank(random(6, 2), random(2, 5)), random(3, 4, 5), random(4, 1)
    torch.testing.assert_close(low.apply(inputs, lambda x: x * mask), mask * low.apply(inputs))


def test_a_kernel_that_looks_at_neighbours_changes_the_weight_alone() -> None:
    pointwise = LowRank(random(6, 2), random(2, 5, 1, 1), 2.0)
    edit, inputs, output = pointwise.as_edit(), random(1, 5, 3, 4), random(1, 6, 3, 4)
    assert isinstance(edit, FactoredEdit)
    expected = output + F.conv2d(inputs, pointwise.delta((6, 5, 1, 1)))
    torch.testing.assert_close(edit.residual(inputs, output), expected, rtol=1e-5, atol=1e-5)
    wide = LowRank(random(6, 2), random(2, 5, 3, 3), 2.0)
    assert wide.as_edit()(torch.zeros(wide.shape)).equal(wide.delta(wide.shape))
    assert not isinstance(wide.as_edit(), FactoredEdit)
