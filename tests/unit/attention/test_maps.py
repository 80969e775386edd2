"""Attention maps from queries and keys, on numbers a person can check."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from conceptloom.attention.maps import (
    AttentionCapture,
    TokenQuery,
    normalised_by_max,
    normalised_min_max,
)
from conceptloom.host.ports import (
    AttentionCall,
    AttentionKind,
    AttentionSite,
    ForwardInfo,
    LayerSite,
    Place,
    Rows,
    TransformerSite,
)


def site(name: str = "a", level: int = 1, heads: int = 1) -> TransformerSite:
    return TransformerSite(name, Place.UP, 1, level, 2, heads, 1, torch.nn.Identity())


def captured(
    *layers: tuple[TransformerSite, Tensor, Tensor], context_length: int | None = None
) -> AttentionCapture:
    capture = AttentionCapture([layer[0] for layer in layers])
    for where, query, key in layers:
        length = context_length or key.shape[1]
        info = ForwardInfo((query.shape[0], 4, 2, 4), torch.zeros(1), (True,), length)
        part = LayerSite("to", Rows.GRID, where.downsample, torch.nn.Identity())
        kind, parts = AttentionKind.CROSS, (part, part, part, part)
        attention = AttentionSite("attn", kind, where, 0, where.heads, *parts, None)
        split = [t.unflatten(-1, (where.heads, -1)).transpose(1, 2) for t in (query, key, key)]
        capture.attention(AttentionCall(attention, info, *split, query, key))
    return capture


def test_probabilities_by_hand() -> None:
    query = torch.zeros(1, 8, 2)
    query[0, 5] = torch.tensor([math.sqrt(2) * math.log(3), 0.0])  # d = 2 divides the root out
    key = torch.tensor([[[1.0, 0.0], [0.0, 0.0]]])
    (heat,) = captured((site(), query, key)).maps([TokenQuery(0, (0,), 2)])
    expected = torch.full((2, 4), 0.5)
    expected[1, 1] = 0.75  # e^log 3 / (e^log 3 + 1)
    assert torch.allclose(heat, expected)


def test_tokens_of_a_word_are_summed_and_heads_averaged() -> None:
    query, key = torch.randn(1, 8, 2), torch.randn(1, 3, 2)
    capture = captured((site(heads=2), query, key))
    one, two, both, all_ = capture.maps(
        [TokenQuery(0, positions, 3) for positions in ((0,), (1,), (0, 1), (0, 1, 2))]
    )
    assert torch.allclose(one + two, both)
    assert torch.allclose(all_, torch.ones(2, 4))
    heads = [(query[0, :, [h]] @ key[0, :, [h]].T).softmax(-1)[:, 0] for h in (0, 1)]
    assert torch.allclose(one.flatten(), (heads[0] + heads[1]) / 2, atol=1e-6)


def test_repeats_of_a_prompt_change_no_map() -> None:
    query, key = torch.randn(2, 8, 2), torch.randn(2, 3, 2)
    ask = [TokenQuery(1, (0, 2), 3), TokenQuery(0, (1,), 3)]
    once = captured((site(), query, key)).maps(ask)
    thrice = captured((site(), query, key.repeat(1, 3, 1))).maps(ask)
    assert torch.allclose(once, thrice, atol=1e-6)
    assert TokenQuery(0, (1, 2), 4).columns(12) == [1, 2, 5, 6, 9, 10]


def test_keys_that_other_packs_append_belong_to_no_word() -> None:
    query, key = torch.zeros(1, 8, 2), torch.randn(1, 3, 2)
    appended = torch.cat([key, torch.randn(1, 2, 2)], dim=1)
    capture = captured((site(), query, appended), context_length=3)
    maps = capture.maps([TokenQuery(0, (p,), 3) for p in range(3)])
    assert torch.allclose(maps, torch.full((3, 2, 4), 1 / 5))  # attention is spread over all keys


def test_blocks_are_averaged_after_resizing() -> None:
    fine = (site("a", 1), torch.randn(1, 8, 2), torch.randn(1, 3, 2))
    coarse = (site("b", 2), torch.randn(1, 2, 2), torch.randn(1, 3, 2))
    ask = [TokenQuery(0, (1,), 3)]
    alone = captured(fine).maps(ask), captured(coarse).maps(ask)
    assert alone[1].shape == (1, 1, 2)
    resized = torch.nn.functional.interpolate(alone[1][None], (2, 4), mode="bilinear")[0]
    both = captured(fine, coarse).maps(ask, size=(2, 4))
    assert torch.allclose(both, (alone[0] + resized) / 2)


def test_halves_are_computed_in_float32() -> None:
    query, key = torch.randn(1, 8, 2), torch.randn(1, 3, 2)
    heat = captured((site(), query.half(), key.half())).maps([TokenQuery(0, (1,), 3)])
    assert heat.dtype == torch.float32
    big = captured((site(), query.half() * 200, key.half() * 200)).maps([TokenQuery(0, (1,), 3)])
    assert torch.isfinite(big).all()  # 200 * 200 is over the largest half


def test_a_pass_forgets_the_one_before() -> None:
    capture = captured((site(), torch.randn(1, 8, 2), torch.randn(1, 3, 2)))
    assert capture.maps([TokenQuery(0, (1,), 3)]).shape == (1, 2, 4)
    capture.begin(ForwardInfo((1, 4, 2, 4), torch.zeros(1), (True,), 3))
    with pytest.raises(RuntimeError, match="Nothing was captured"):
        capture.maps([TokenQuery(0, (1,), 3)])
    again = captured((site(), torch.randn(1, 8, 2), torch.randn(1, 3, 2)))
    again.clear()
    with pytest.raises(RuntimeError, match="Nothing was captured"):
        again.maps([TokenQuery(0, (1,), 3)])


def test_only_the_rows_asked_for_get_gradients() -> None:
    query = torch.randn(3, 8, 2, requires_grad=True)
    capture = captured((site(), query, torch.randn(3, 3, 2)))
    (grad,) = torch.autograd.grad(capture.maps([TokenQuery(1, (1,), 3)]).square().sum(), query)
    assert (grad.abs().sum((1, 2)) > 0).tolist() == [False, True, False]


def test_normalised_maps_by_hand() -> None:
    maps = torch.tensor([[[1.0, 2.0], [3.0, 5.0]], [[0.0, 0.0], [0.0, 0.0]]])
    assert normalised_by_max(maps)[0].flatten().tolist() == pytest.approx([0.2, 0.4, 0.6, 1.0])
    assert normalised_min_max(maps)[0].flatten().tolist() == pytest.approx([0.0, 0.25, 0.5, 1.0])
    assert not normalised_by_max(maps)[1].any()
    assert not normalised_min_max(maps)[1].any()
