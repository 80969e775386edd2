"""Handles that stand in prompts of regions only, which other packs keep in the MODEL."""

from __future__ import annotations

from collections.abc import Callable
from math import lcm
from typing import Any

import comfy.hooks
import pytest
import torch
from nodes import KSampler
from test_lag import PROMPT, conditioning, lag
from tiny_models import Graph, assert_same_state, state_of

from conceptloom.errors import PromptError
from conceptloom.host.comfyui.tokens import TOKENS
from conceptloom.nodes.guidance import CrossAttentionGuidance

BASE = "a red house on a hill, " * 12  # two chunks of 77
LEFT = torch.zeros(1, 1, 8, 10)
LEFT[..., :5] = 1


class Couple:
    """What packs of attention couple do to cross-attention, for one prompt more than the base.

    Rows of the positive prompt stand once for the base and once for the region; what each attends
    to is added up under its mask.
    """

    def __init__(self, context: torch.Tensor, strength: float = 1.0) -> None:
        self.contexts, self.strength, self.chunks = [context], strength, list[int]()

    def attend(self, q: Any, k: Any, v: Any, extra: dict[str, Any]) -> Any:
        chunks = extra["cond_or_uncond"]
        n = len(q) // len(chunks)
        length = lcm(k.shape[1], *(c.shape[1] for c in self.contexts))
        queries, contexts, self.chunks = [], [], []
        for i, kind in enumerate(chunks):
            own = k[i * n : (i + 1) * n].repeat(1, length // k.shape[1], 1)
            parts = [own]
            if kind == 0:
                parts += [
                    c.to(own).repeat(n, length // c.shape[1], 1) * self.strength
                    for c in self.contexts
                ]
            contexts += parts
            queries += [q[i * n : (i + 1) * n]] * len(parts)
            self.chunks.append(len(parts))
        both = torch.cat(contexts)
        return torch.cat(queries), both, both

    def add_up(self, out: torch.Tensor, extra: dict[str, Any]) -> torch.Tensor:
        rows = out.chunk(sum(self.chunks))
        size = extra["activations_shape"][-2:]
        mask = torch.nn.functional.interpolate(LEFT, size).flatten()[None, :, None]
        found, at = [], 0
        for n in self.chunks:
            found.append(rows[at] if n == 1 else rows[at] * (1 - mask) + rows[at + 1] * mask)
            at += n
        return torch.cat(found)


def as_attributes(model: Any, positive: Any, context: torch.Tensor, strength: float) -> Any:
    """The object that the patches are methods of holds the contexts (cgem156, tooling-nodes)."""
    couple, patched = Couple(context, strength), model.clone()
    patched.set_model_attn2_patch(couple.attend)
    patched.set_model_attn2_output_patch(couple.add_up)
    return patched, positive


def as_closures(model: Any, positive: Any, context: torch.Tensor, strength: float) -> Any:
    """Functions that hold key and value of each context in a list of pairs (ppm)."""
    pairs, state, patched = [(context, context)], Couple(context[:0], strength), model.clone()

    def attend(q: Any, k: Any, v: Any, extra: dict[str, Any]) -> Any:
        state.contexts = [key for key, _ in pairs]
        return state.attend(q, k, v, extra)

    patched.set_model_attn2_patch(attend)
    patched.set_model_attn2_output_patch(lambda out, extra: state.add_up(out, extra))
    return patched, positive


class _Carried:
    """A callable that the host may move to a device, around a method (prompt-control)."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function

    def to(self, *_: Any, **__: Any) -> _Carried:
        return self

    def __call__(self, *args: Any) -> Any:
        return self.function(*args)


def as_hooks(model: Any, positive: Any, context: torch.Tensor, strength: float) -> Any:
    """Nothing on the MODEL: hooks on the conditioning bring the patches (prompt-control)."""
    couple = Couple(context, strength)
    patches = {
        "attn2_patch": [_Carried(couple.attend)],
        "attn2_output_patch": [_Carried(couple.add_up)],
    }
    hook = comfy.hooks.TransformerOptionsHook(
        transformers_dict={"patches": patches}, hook_scope=comfy.hooks.EnumHookScope.HookedOnly
    )
    group = comfy.hooks.HookGroup()
    group.add(hook)
    return model, comfy.hooks.set_hooks_for_conditioning(positive, hooks=group)


WAYS = (as_attributes, as_closures, as_hooks)


def drawn(model: Any, positive: Any, negative: Any, rows: int = 1) -> torch.Tensor:
    empty = {"samples": torch.zeros(rows, 4, 8, 10)}
    return KSampler().sample(model, 5, 2, 4.0, "euler", "normal", positive, negative, empty, 1.0)[
        0
    ]["samples"]


def coupled(way: Any, model: Any, clip: Any, text: str = PROMPT, strength: float = 1.0) -> Any:
    ((context, _),) = conditioning(clip, text)
    return way(model, conditioning(clip, BASE), context.clone(), strength)


@pytest.mark.parametrize("memory", [0.0, 1e30], ids=["together", "one by one"])
@pytest.mark.parametrize("strength", [1.0, 0.7])
@pytest.mark.parametrize("way", WAYS)
def test_lag_localises_by_the_prompt_of_a_region(
    sd1: Graph, way: Any, strength: float, memory: float, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(type(sd1.model.model), "memory_required", lambda *a, **k: memory)
    before, seen = state_of(sd1.model), list[torch.Tensor]()
    model, clip = lag(sd1, on_masks=lambda _, masks, __: seen.append(masks))
    negative = conditioning(clip, "dull")
    pictures = [
        drawn(*coupled(way, m, clip, strength=strength), negative, rows=2)
        for m in (sd1.model, model)
    ]
    assert (pictures[1] - pictures[0]).abs().max() > 0.5
    assert len(seen) == 2 * 16, "masks of every block, both steps"
    for masks in seen:
        share = masks.flatten(2).mean(dim=2)
        assert masks.shape[:2] == (2, 1)
        assert (share - 0.5).abs().max() <= 1 / masks[0, 0].numel()
    assert not torch.equal(seen[-1][0], seen[-1][1]), "each picture by its own attention"
    assert_same_state(sd1.model, before)


def test_masks_are_those_of_the_regions_own_prompt(sd1: Graph, host: Any):
    """The first block sees the same latents whoever attends: its mask is that of the prompt."""
    first: list[torch.Tensor] = []
    model, clip = lag(sd1, on_masks=lambda _, masks, __: first.append(masks))
    negative = conditioning(clip, "dull")
    for patched, positive in (
        coupled(as_attributes, model, clip),
        (model, conditioning(clip, PROMPT)),
    ):
        drawn(patched, positive, negative)
    torch.testing.assert_close(first[0], first[len(first) // 2])


@pytest.mark.parametrize("way", WAYS)
def test_a_region_without_the_handle_satisfies_no_check(sd1: Graph, way: Any):
    model, clip = lag(sd1)
    negative = conditioning(clip, PROMPT)
    with pytest.raises(PromptError, match="No prompt contains <my-cat>"):
        drawn(*coupled(way, model, clip, "a blue cat"), negative)


@pytest.mark.parametrize("way", WAYS)
def test_the_base_prompt_goes_on_beside_regions(sd1: Graph, way: Any):
    model, clip = lag(sd1)
    base, negative = conditioning(clip, PROMPT), conditioning(clip, "dull")
    ((context, _),) = conditioning(clip, "a blue house")
    without = [[c, {k: v for k, v in more.items() if k != TOKENS}] for c, more in base]
    one, other = (drawn(*way(model, c, context, 1.0), negative) for c in (base, without))
    assert torch.equal(one, other)
    plain = drawn(*way(sd1.model, base, context, 1.0), negative)
    assert (one - plain).abs().max() > 0.5


@pytest.mark.parametrize("way", WAYS)
def test_guidance_pulls_words_of_a_region(sd1: Graph, way: Any):
    model, clip = CrossAttentionGuidance.execute(
        sd1.model, sd1.clip, "cat", False, None, eta=0.5, steps=2, rule="sign", level=0
    ).args
    negative = conditioning(clip, "dull")
    guided, plain = (
        drawn(*coupled(way, m, clip, "a blue cat"), negative) for m in (model, sd1.model)
    )
    assert not torch.allclose(guided, plain, atol=1e-3)
    with pytest.raises(PromptError, match="does not contain 'cat'"):
        drawn(*coupled(way, model, clip, "a blue dog"), negative)
