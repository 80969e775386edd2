"""Words behind a conditioning are found by its vectors, whatever nodes stand between."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from comfy_extras.nodes_clip_sdxl import CLIPTextEncodeSDXL
from nodes import (
    ConditioningAverage,
    ConditioningCombine,
    ConditioningConcat,
    ConditioningSetArea,
    ConditioningSetMask,
    ConditioningSetTimestepRange,
    ConditioningZeroOut,
    KSampler,
)
from test_lag import PROMPT, conditioning, lag
from tiny_models import Graph, graph_of

from conceptloom.errors import PromptError
from conceptloom.host.comfyui.prompt_prints import PRINTS, UNKNOWN, PromptPrints
from conceptloom.host.comfyui.tokens import TOKENS
from conceptloom.nodes.guidance import CrossAttentionGuidance

OTHER = "a red house on a hill"


def drawn(model: Any, positive: Any, negative: Any) -> torch.Tensor:
    empty = {"samples": torch.zeros(1, 4, 8, 10)}
    return KSampler().sample(model, 5, 2, 4.0, "euler", "normal", positive, negative, empty, 1.0)[
        0
    ]["samples"]


def without_tags(positive: Any) -> Any:
    return [[c, {k: v for k, v in more.items() if k != TOKENS}] for c, more in positive]


REBUILT: dict[str, Callable[[Any, Any], Any]] = {
    "concat, handle first": lambda a, b: ConditioningConcat().concat(a, b)[0],
    "concat, handle behind": lambda a, b: ConditioningConcat().concat(b, a)[0],
    "three in a row": lambda a, b: ConditioningConcat().concat(
        b, ConditioningConcat().concat(b, a)[0]
    )[0],
    "average, handle first": lambda a, b: ConditioningAverage().addWeighted(a, b, 0.6)[0],
    "average, handle behind": lambda a, b: ConditioningAverage().addWeighted(b, a, 0.4)[0],
    "combine": lambda a, b: ConditioningCombine().combine(b, a)[0],
    "area": lambda a, b: ConditioningSetArea().append(a, 80, 64, 0, 0, 1.0)[0],
    "mask": lambda a, b: ConditioningSetMask().append(a, torch.ones(1, 64, 80), "default", 1.0)[0],
    "time": lambda a, b: ConditioningSetTimestepRange().set_range(a, 0.0, 1.0)[0],
    "a node that drops the tag": lambda a, b: without_tags(a),
    "half precision": lambda a, b: [[c.half().float(), {}] for c, _ in a],
    "bfloat16": lambda a, b: [[c.bfloat16().float(), {}] for c, _ in a],
    "cut into pieces": lambda a, b: [[torch.cat([c[:, 40:], c[:, :40]], 1), {}] for c, _ in a],
    "scaled, tag kept": lambda a, b: [[1.7 * c, more] for c, more in a],
    "scaled, tag dropped": lambda a, b: [[0.6 * c, {}] for c, _ in a],
}


@pytest.mark.parametrize("rebuild", REBUILT.values(), ids=list(REBUILT))
def test_lag_works_whatever_rebuilt_the_prompt(sd1: Graph, rebuild: Any):
    model, clip = lag(sd1)
    positive = rebuild(conditioning(clip, PROMPT), conditioning(clip, OTHER))
    negative = ConditioningZeroOut().zero_out(positive)[0]
    change = (drawn(model, positive, negative) - drawn(sd1.model, positive, negative)).abs().max()
    assert change > 0.5


def test_both_orders_of_concat_see_the_same_words(sd1: Graph):
    """The masks are those of the handle's own vectors, wherever they stand."""
    model, clip = lag(sd1)
    ours, other = conditioning(clip, PROMPT), conditioning(clip, OTHER)
    negative = conditioning(clip, "")
    pictures = [
        drawn(model, ConditioningConcat().concat(*pair)[0], negative)
        for pair in ((ours, other), (other, ours))
    ]
    torch.testing.assert_close(*pictures, rtol=1e-3, atol=1e-3)


def test_only_positive_prompts_satisfy_the_check(sd1: Graph):
    model, clip = lag(sd1)
    ours, other = conditioning(clip, PROMPT), conditioning(clip, OTHER)
    for negative in (ours, ConditioningConcat().concat(ours, ours)[0]):
        with pytest.raises(PromptError, match=r"No prompt contains <my-cat>.*a node between"):
            drawn(model, other, negative)
    with pytest.raises(PromptError, match="a node between"):
        drawn(model, ConditioningZeroOut().zero_out(ours)[0], other)


@pytest.mark.parametrize(
    ("text_g", "text_l"),
    [
        (PROMPT, ""),
        ("", PROMPT),
        (PROMPT, OTHER),
        (OTHER, PROMPT),
        ("in the rain, a <my-cat> cat", PROMPT),
    ],
)
def test_every_encoder_of_sdxl_counts(text_g: str, text_l: str):
    graph = graph_of("sdxl")
    model, clip = lag(graph)
    sizes = (80, 64, 0, 0, 80, 64)
    positive = CLIPTextEncodeSDXL.execute(clip, *sizes, text_g, text_l).args[0]
    ((context, more),) = positive
    tokens = PRINTS.tokens_of(context)
    assert tokens == more[TOKENS]
    places = {
        i
        for text, key in ((text_g, "g"), (text_l, "l"))
        for i, (token, *_) in enumerate(clip.tokenize(text)[key][0])
        if isinstance(token, torch.Tensor)
    }
    held = {
        i
        for i, t in enumerate(tokens)
        if t == "my-cat" or (isinstance(t, frozenset) and "my-cat" in t)
    }
    assert held == places
    assert len(places) >= 2
    negative = conditioning(clip, "")
    change = drawn(model, positive, negative) - drawn(graph.model, positive, negative)
    assert change.abs().max() > 0.3


def test_guidance_finds_its_words_behind_others(sd1: Graph):
    model, clip = CrossAttentionGuidance.execute(
        sd1.model, sd1.clip, "house", False, None, eta=0.5, steps=2, rule="sign", level=0
    ).args
    ours, other = conditioning(clip, OTHER), conditioning(clip, "a photo of a cat")
    positive, negative = ConditioningConcat().concat(other, ours)[0], conditioning(clip, "")
    guided, plain = (drawn(m, positive, negative) for m in (model, sd1.model))
    assert not torch.allclose(guided, plain, atol=1e-3)
    with pytest.raises(PromptError, match="a node between"):
        drawn(model, other, negative)


def test_prints_are_bounded_and_the_written_tokens_decide():
    prints = PromptPrints()
    contexts = [
        torch.randn(1, 4, 32, generator=torch.Generator().manual_seed(i)) for i in range(600)
    ]
    for i, context in enumerate(contexts):
        prints.add(context, (1, f"h{i}", 2, 3))
    assert prints.tokens_of(contexts[0]) == ()
    assert prints.tokens_of(contexts[0], (1, "x", 2, 3)) == (1, "x", 2, 3)
    assert prints.tokens_of(contexts[-1]) == (1, "h599", 2, 3)
    assert prints.tokens_of(torch.zeros(1, 4, 32), (1, "x", 2, 3)) == ()
    both = torch.cat([torch.zeros(1, 1, 32), contexts[-1]], dim=1)
    assert prints.tokens_of(both, (1, "x")) == (UNKNOWN, 1, "h599", 2, 3)
    same = contexts[-1] + 1e-6  # the same vectors under another name
    prints.add(same, (1, "other", 2, 3))
    assert prints.tokens_of(same, (1, "other", 2, 3)) == (1, "other", 2, 3)
    assert prints.tokens_of(contexts[-1], (1, "h599", 2, 3)) == (1, "h599", 2, 3)
