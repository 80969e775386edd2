"""Concept Weaver's nodes through ComfyUI's own executor and under its own samplers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import comfy.model_management
import comfy.utils
import pytest
import torch
from executor import Executor, given, node
from tiny_models import Graph, assert_same_state, graph_of, state_of
from weaver_graphs import (
    MODELS,
    SENTENCE,
    SIDE,
    STEPS,
    concept,
    graph,
    run,
    sampler,
    values_of,
    with_core_nodes,
    woven,
)

pytestmark = pytest.mark.usefixtures("folders")


@pytest.fixture(autouse=True, scope="module")
def core_nodes(executor: Executor) -> None:
    with_core_nodes()


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl"])
def test_a_template_is_inverted_shared_out_and_woven(executor: Executor, family: str):
    before = state_of(graph_of(family).model)
    wanted = {
        "sigmas": ["1", 1], "start": ["1", 2], "back": ["1", 3], "told": ["1", 4],
        "preview": ["2", 1], "prompts": ["2", 2], "latent": ["5", 0],
    }  # fmt: skip
    result = executor.run({**graph(), **sampler()}, values_of(family), **wanted)
    assert result.error == ""
    values = result.values
    assert len(values["sigmas"]) == STEPS + 1
    assert values["back"].shape == (1, SIDE, SIDE, 3)
    assert values["told"].startswith("reconstruction: ")
    assert values["start"]["samples"].shape == (1, 4, 8, 8)
    assert values["preview"].ndim == 4
    assert values["prompts"].splitlines()[1] == "<my-cup>: a photo of a <my-cup>"
    assert values["latent"]["samples"].isfinite().all()
    assert_same_state(graph_of(family).model, before)


@pytest.mark.parametrize("family", ["sd1", "sd2"])
def test_the_one_piece_node_draws_what_the_sampler_draws(executor: Executor, family: str):
    one = node(
        "WeaveConcepts", **MODELS, template=["1", 0], regions=["2", 0], suppression=0.2,
        negative="blurry", resnet_until=0.8, attention_until=0.5, cfg=3.0, mixing="features",
    )  # fmt: skip
    every = {**graph(), **sampler(), "6": one}
    result = executor.run(every, values_of(family), theirs=["5", 0], ours=["6", 1], image=["6", 0])
    assert result.error == ""
    ours, theirs = (result.values[k]["samples"] for k in ("ours", "theirs"))
    torch.testing.assert_close(ours, theirs.cpu(), rtol=2e-2, atol=2e-2 * float(theirs.abs().max()))
    assert result.values["image"].shape == (1, SIDE, SIDE, 3)


def test_thresholds_of_zero_and_plain_regions_are_plain_sampling(executor: Executor):
    empty = replace(concept("sd1", "my-cup"), handles={}, weights={})
    off = {"resnet_until": 0.0, "attention_until": 0.0, "suppression": 0.0}
    words = f"cup: {SENTENCE}\ntoy: {SENTENCE}"
    result = woven(
        executor, values={"cup": empty, "toy": empty}, fuse=off, regions={"words": words}
    )
    assert result.error == ""
    plain = {**graph(fuse=off), **sampler(model=given("model"))}
    expected = executor.run(plain, values_of(), latent=["5", 0])
    torch.testing.assert_close(
        result.values["latent"]["samples"], expected.values["latent"]["samples"],
        rtol=1e-3, atol=1e-3,
    )  # fmt: skip


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_features_that_are_not_kept_are_computed_inside_of_the_sampler(
    executor: Executor, family: str
):
    found = [
        woven(executor, family, invert={"keep": keep}).values["latent"]["samples"]
        for keep in ("RAM", "GPU", "recompute", "auto")
    ]
    for other in found[1:]:
        torch.testing.assert_close(found[0], other, rtol=2e-2, atol=2e-2 * float(other.abs().max()))


@pytest.mark.parametrize("kind", ["ddim", "dpmpp_2m", "heun"])
def test_other_samplers_take_it(executor: Executor, kind: str):
    result = woven(executor, sampler={"kind": kind})
    assert result.error == ""
    assert result.values["latent"]["samples"].isfinite().all()


def test_the_samplers_own_sigmas_can_be_given(executor: Executor):
    karras = torch.tensor([8.0, 3.0, 1.0, 0.2, 0.0])
    result = run(executor, values={"sigmas": karras}, invert={"sigmas": given("sigmas")})
    assert result.error == ""
    assert torch.equal(result.values["template"].sigmas, karras)


def test_a_background_concept_and_prompts_by_hand(executor: Executor):
    result = run(
        executor,
        values={"room": concept("sd1", "my-bedroom")},
        regions={
            "background_concept": given("room"), "background": "photo",
            "words": "cup: one <my-cup>\ntoy",
        },
    )  # fmt: skip
    assert result.error == ""
    regions = result.values["regions"]
    assert [part.prompt for part in regions.parts] == [
        "one <my-cup>", "a photo of a <my-toys>", "a <my-bedroom> of a cup and a toy",
    ]  # fmt: skip
    assert torch.equal(regions.masks.sum(dim=0), torch.ones(SIDE, SIDE))


def test_residuals_on_the_output_projection_are_taken(executor: Executor):
    kinds = [concept("sd1", "my-cup"), concept("sd1", "my-cup", ".proj_out.weight")]
    found = [woven(executor, values={"cup": kind}).values["latent"]["samples"] for kind in kinds]
    assert not torch.allclose(*found, atol=1e-3)


def test_cancelling_during_inversion_leaves_nothing(
    executor: Executor, sd1: Graph, monkeypatch: pytest.MonkeyPatch
):
    before, calls = state_of(sd1.model), []

    def stop_at(self: Any, value: int, *args: Any) -> None:
        calls.append(value)
        if value == 2:
            comfy.model_management.interrupt_current_processing()

    monkeypatch.setattr(comfy.utils.ProgressBar, "update_absolute", stop_at)
    result = run(executor, invert={"prompt": "cancelled"})
    assert result.was_cancelled
    assert max(calls) == 2
    assert_same_state(sd1.model, before)
