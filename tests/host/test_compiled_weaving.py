"""Concept Weaver and Two-Stage Generation around a compiled model: the same latents as without."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from executor import Executor, given, node
from test_compiled import Make, by_node, by_patch
from test_lag import PROMPT, conditioning, lag
from tiny_models import Graph, graph_of
from weaver_graphs import MODELS, graph, sampler, values_of, with_core_nodes

from conceptloom.nodes.two_stage import TwoStageGeneration

pytestmark = pytest.mark.usefixtures("folders", "no_graphs_left")


@pytest.fixture
def no_graphs_left():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def in_one_piece(mixing: str) -> dict[str, dict]:
    return {
        "6": node(
            "WeaveConcepts", **MODELS, template=["1", 0], regions=["2", 0], suppression=0.2,
            negative="blurry", resnet_until=0.8, attention_until=0.5, cfg=3.0, mixing=mixing,
        )
    }  # fmt: skip


def drawn(executor: Executor, every: dict[str, dict], **values: Any) -> dict[str, torch.Tensor]:
    """Latents of the sampler and of the one-piece node, as far as they are in a graph."""
    outputs = {"start": ["1", 2], "fused": ["5", 0], "woven": ["6", 1]}
    wanted = {name: output for name, output in outputs.items() if output[0] in every}
    result = executor.run(every, values_of("sd1", **values), **wanted)
    assert result.error == ""
    return {name: value["samples"] for name, value in result.values.items()}


def test_weaving_with_a_compiled_model_is_weaving(executor: Executor):
    """Template, regions, fuser under a sampler, and the one-piece node behind a compiling one."""
    with_core_nodes()
    every = {**graph(), **sampler(), **in_one_piece("features")}
    expected = drawn(executor, every)
    found = drawn(executor, every, model=by_node(graph_of("sd1").model))
    assert found.keys() == expected.keys() == {"start", "fused", "woven"}
    for name, latent in expected.items():
        assert torch.equal(found[name], latent), name
    plain = drawn(executor, {**graph(), **sampler(model=given("model"))})
    assert not torch.allclose(plain["fused"], expected["fused"], atol=1e-3), "weaving works"


def test_the_naive_baseline_with_a_compiled_model(executor: Executor):
    every = {**graph(), **in_one_piece("scores")}
    expected = drawn(executor, every)["woven"]
    assert torch.equal(
        drawn(executor, every, model=by_node(graph_of("sd1").model))["woven"], expected
    )


@pytest.mark.parametrize("compiled", [by_node, by_patch])
def test_a_fuser_that_is_compiled_behind(executor: Executor, compiled: Make):
    with_core_nodes()
    every = {**graph(), **sampler()}
    fused = executor.run(every, values_of("sd1"), model=["3", 0], latent=["5", 0]).values
    behind = {**graph(), **sampler(model=given("compiled"))}
    found = drawn(executor, behind, compiled=compiled(fused["model"]))["fused"]
    assert torch.equal(found, fused["latent"]["samples"])


def test_two_stages_of_compiled_models_with_edits(sd1: Graph):
    def latent_of(make: Make) -> torch.Tensor:
        model, clip = lag(Graph(make(sd1.model), sd1.clip, sd1.vae))
        positive, negative = conditioning(clip, PROMPT), conditioning(clip, "")
        return TwoStageGeneration.execute(
            base_model=model, model=model, base_positive=positive, positive=positive,
            negative=negative, latent_image={"samples": torch.zeros(1, 4, 8, 8)}, base_steps=1,
            seed=3, steps=3, cfg=2.0, sampler_name="ddim", scheduler="ddim_uniform",
        ).args[0]["samples"]  # fmt: skip

    expected = latent_of(lambda model: model)
    assert torch.equal(latent_of(by_node), expected)
    assert torch.equal(latent_of(by_patch), expected)
