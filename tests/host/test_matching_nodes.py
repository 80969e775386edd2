"""RoI Matching and Concept Discovery as nodes, in ComfyUI's own executor."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from executor import Executor, given, node
from tiny_models import Graph, assert_same_state, graph_of, state_of

from conceptloom.host.comfyui.host import ComfyHost

SIDE = 64
LINKS = {name: given(name) for name in ("model", "clip", "vae")}
QUICK = {
    "object_word": "chair",
    "steps": 2,
    "rate": 1e-3,
    "checkpointing": False,
    "read_steps": 2,
    "threshold": 0.5,
    "seed": 0,
}


@pytest.fixture(scope="module")
def executor() -> Executor:
    return Executor()


def images(count: int) -> torch.Tensor:
    return torch.rand(count, SIDE, SIDE, 3, generator=torch.Generator().manual_seed(0))


def discover(executor: Executor, models: Graph, **more: Any):
    values = {"model": models.model, "clip": models.clip, "vae": models.vae}
    values["images"] = more.pop("images", images(2))
    inputs = {"name": "shared", "word": "dot", "scope": "cross-attention K/V", **QUICK, **more}
    graph = {"1": node("ConceptDiscovery", images=given("images"), **LINKS, **inputs)}
    wanted = {"concept": ["1", 0], "masks": ["1", 1], "heat": ["1", 2], "overlay": ["1", 3]}
    return executor.run(graph, values, **wanted)


def match(executor: Executor, models: Graph, concept: Any, **more: Any):
    mask = torch.zeros(1, SIDE, SIDE)
    mask[:, 16:40, 16:40] = 1
    values = {
        "model": models.model, "clip": models.clip, "vae": models.vae, "concept": concept,
        "source": images(1), "source_mask": more.pop("mask", mask), "targets": images(3)[1:],
    }  # fmt: skip
    links = {name: given(name) for name in values}
    graph = {"1": node("RoIMatching", **links, **{"handle": "", **QUICK, **more})}
    return executor.run(graph, values, masks=["1", 0], heat=["1", 1], overlay=["1", 2])


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_what_was_discovered_is_matched(executor: Executor, family: str):
    models = graph_of(family)
    unet, text = state_of(models.model), state_of(models.clip.patcher)
    found = discover(executor, models)
    assert found.error == ""
    concept = found.values["concept"]
    assert concept.names == ["shared"]
    assert concept.base == ComfyHost(models.model, models.clip).fingerprint
    assert found.values["masks"].shape == found.values["heat"].shape == (2, SIDE, SIDE)
    assert found.values["overlay"].shape[-1] == 3
    result = match(executor, models, concept)
    assert result.error == ""
    assert result.values["masks"].shape == (2, SIDE, SIDE)
    assert not torch.equal(result.values["heat"][0], result.values["heat"][1])
    assert_same_state(models.model, unet)
    assert_same_state(models.clip.patcher, text)


def test_what_cannot_be_matched_or_discovered_is_reported(executor: Executor):
    models = graph_of("sd1")
    assert "1 picture came" in discover(executor, models, images=images(1)).error
    concept = discover(executor, models).values["concept"]
    assert "no handle <other>" in match(executor, models, concept, handle="other").error
    empty = match(executor, models, concept, mask=torch.zeros(1, SIDE, SIDE))
    assert "mask is empty" in empty.error
    wide = match(executor, models, concept, mask=torch.ones(1, SIDE, 2 * SIDE))
    assert "same aspect" in wide.error
    foreign = match(executor, graph_of("sdxl"), concept)
    assert foreign.kind == "BaseMismatchError"
