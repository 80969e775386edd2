"""The masks of LAG sampling by hand."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch

from conceptloom.attention import lag_masks
from conceptloom.attention.lag_masks import binarised, exclusive, smoothed, summed_attention


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_summed_attention_by_hand() -> None:
    query, key = torch.tensor([[[1.0, 0.0], [0.0, 2.0]]]), torch.tensor([[[1.0, 3.0], [0.0, 0.0]]])
    # two heads of width 1: logits q k; tokens 0 and 1
    first = [(math.e / (math.e + 1) + 0.5) / 2, (0.5 + math.e**6 / (math.e**6 + 1)) / 2]
    found = summed_attention(query, key, 2, torch.eye(2)[None])
    torch.testing.assert_close(found[0, 0], torch.tensor(first))
    torch.testing.assert_close(found[0, 1], 1 - torch.tensor(first))


def test_only_the_chosen_positions_of_each_row_count(monkeypatch: pytest.MonkeyPatch) -> None:
    query, key = random(2, 6, 8), random(2, 5, 8, seed=1)
    logits = torch.einsum("rnad,rkad->rank", query.view(2, 6, 4, 2) * 2**-0.5, key.view(2, 5, 4, 2))
    probs = logits.softmax(-1).mean(1)
    chosen = torch.zeros(2, 5, 2)
    chosen[0, 1, 0] = chosen[0, 4, 0] = chosen[1, 2, 1] = 1
    expected = torch.zeros(2, 2, 6)
    expected[0, 0] = probs[0, :, 1] + probs[0, :, 4]
    expected[1, 1] = probs[1, :, 2]
    torch.testing.assert_close(summed_attention(query, key, 4, chosen), expected)
    monkeypatch.setitem(lag_masks.MOST_LOGITS, "cpu", 100)  # in pieces of two positions
    torch.testing.assert_close(summed_attention(query, key, 4, chosen), expected)


def test_keys_that_others_append_belong_to_no_concept() -> None:
    query, key, chosen = random(2, 6, 8), random(2, 9, 8, seed=1), torch.zeros(2, 5, 2)
    chosen[0, 1, 0] = chosen[1, 4, 1] = 1
    longer = torch.cat([chosen, torch.zeros(2, 4, 2)], dim=1)
    found = summed_attention(query, key, 4, chosen)
    torch.testing.assert_close(found, summed_attention(query, key, 4, longer))
    assert found[0, 0].max() < summed_attention(query, key[:, :5], 4, chosen)[0, 0].max()


@pytest.mark.parametrize("n", [64, 65])
@pytest.mark.parametrize("quantile", [0.0, 0.25, 0.5, 0.8, 1.0])
def test_the_mask_leaves_out_its_share(n: int, quantile: float) -> None:
    masks = binarised(random(3, 2, n), quantile)
    assert masks.unique().tolist() in ([0.0], [1.0], [0.0, 1.0])
    assert masks.sum(-1).unique().tolist() == [n - math.ceil(Fraction(str(quantile)) * n)]


def test_the_median_is_that_of_every_map() -> None:
    attention = torch.tensor([[[1.0, 2.0, 3.0, 4.0], [100.0, 10.0, 40.0, 30.0]]])
    assert binarised(attention).tolist() == [[[0, 0, 1, 1], [1, 0, 1, 0]]]


def test_a_soft_mask_crosses_half_at_the_threshold() -> None:
    attention = random(1, 1, 40)
    hard, soft = binarised(attention), binarised(attention, softness=0.5)
    assert torch.equal(hard > 0, soft > 0.5)
    assert 0 < float(soft.min()) < float(soft.max()) < 1
    sharp = binarised(attention, softness=1e-6)
    torch.testing.assert_close(sharp, hard, atol=0.5, rtol=0)


def test_smoothing_keeps_the_sum_and_spreads_a_point() -> None:
    plane = torch.zeros(1, 1, 9, 9)
    plane[..., 4, 4] = 1
    blurred = smoothed(plane.flatten(2), (9, 9), 1.0).view(9, 9)
    assert float(blurred.sum()) == pytest.approx(1)
    torch.testing.assert_close(blurred, blurred.T)
    # neighbours by exp(-1/2), up to the cut of the kernel
    assert float(blurred[4, 5] / blurred[4, 4]) == pytest.approx(math.exp(-0.5))
    constant = torch.full((1, 2, 12), 0.3)
    torch.testing.assert_close(smoothed(constant, (3, 4), 2.0), constant)


def test_a_quantile_counts_as_it_is_written() -> None:
    """0.07 * 100 and 0.55 * 100 are a little more than 7 and 55 in binary."""
    for quantile, left_out in ((0.07, 7), (0.55, 55), (0.29, 29), (0.5, 50), (0.071, 8)):
        assert int(binarised(random(100), quantile).sum()) == 100 - left_out
    assert int(binarised(random(4096), 0.7).sum()) == 4096 - 2868


def test_overlaps_go_to_the_stronger_attention() -> None:
    masks = torch.tensor([[[1.0, 1.0, 0.0, 0.0], [1.0, 0.0, 1.0, 0.0]]])
    attention = torch.tensor([[[0.2, 0.1, 0.9, 0.1], [0.3, 0.9, 0.1, 0.2]]])
    assert exclusive(masks, attention).tolist() == [[[0, 1, 0, 0], [1, 0, 1, 0]]]
    assert torch.equal(exclusive(masks[:, :1], attention[:, :1]), masks[:, :1])
