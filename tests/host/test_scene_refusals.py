"""Scenes, runs and readings that cannot be: what the nodes say, and that nothing is lost."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from executor import Executor, given, node, pack_nodes
from scene_graphs import (
    MODEL_LINKS,
    QUICK,
    SIDE,
    apply,
    image,
    make_scene,
    masks,
    scene,
    train,
    values_of,
)
from tiny_models import Graph, assert_same_state, state_of

pytestmark = pytest.mark.usefixtures("folders")

SCENES = {
    "a mask of another aspect": (
        dict(picture=image(), rows=masks()[:, : SIDE // 2]),
        "MaskError",
        "The mask of <my-mug> is 32x16 px but its picture is 32x32 px, a different aspect ratio",
    ),
    "an empty mask": (
        dict(picture=image(), rows=masks() * torch.tensor([1.0, 0.0])[:, None, None]),
        "MaskError",
        "The mask of <my-toy> is empty",
    ),
    "masks that cover each other": (
        dict(picture=image(), rows=masks()[:1].expand(2, -1, -1)),
        "MaskError",
        "The masks of <my-mug> and <my-toy> cover the same pixels",
    ),
    "more masks than names": (
        dict(picture=image(), rows=masks(3)),
        "MaskError",
        "3 masks came but only 2 names (<my-mug>, <my-toy>)",
    ),
    "more names than masks": (
        dict(picture=image(), rows=masks()[:1]),
        "HandleError",
        "<my-toy> has no mask: 2 names, but 1 masks",
    ),
    "no name": (
        dict(picture=image(), rows=masks(), concepts="\n"),
        "HandleError",
        "No concept has a name",
    ),
    "a name twice": (
        dict(picture=image(), rows=masks(), concepts="my-mug: cup\nmy-mug: toy"),
        "HandleError",
        "Two concepts use the handle <my-mug>",
    ),
    "a name with a space": (
        dict(picture=image(), rows=masks(), concepts="my mug: cup\nmy-toy: toy"),
        "HandleError",
        "'my mug' cannot be a handle",
    ),
    "a batch that does not match": (
        dict(picture=image(count=3), rows=masks()),
        "MaskError",
        "<my-mug> has a batch of 2 masks for 3 pictures",
    ),
    "a picture of one pixel": (
        dict(picture=image(side=1), rows=torch.ones(2, 1, 1)),
        "ImageError",
        "Picture 1 is 1x1 px; a side needs 16 px or more",
    ),
    "a picture with two channels": (
        dict(picture=image(channels=2), rows=masks()),
        "ImageError",
        "Picture 1 has the shape [32, 32, 2]",
    ),
    "a background that is a concept": (
        dict(picture=image(), rows=masks(), background="my-mug"),
        "HandleError",
        "The background cannot be <my-mug>",
    ),
}


@pytest.mark.parametrize("case", SCENES)
def test_scenes_that_cannot_be_are_refused(executor: Executor, case: str):
    inputs, kind, message = SCENES[case]
    result = make_scene(executor, **inputs)
    assert message in result.error
    assert result.kind == kind


def test_an_error_begins_with_its_kind_and_sentence_and_no_path(
    executor: Executor, caplog: pytest.LogCaptureFixture
):
    result = make_scene(executor, image(), masks() * 0)
    (shown,) = [data for event, data in result.messages if event == "execution_error"]
    assert shown["exception_type"] == "MaskError"
    assert shown["exception_message"].startswith("Every mask of picture 1 is empty")
    trace = next(r.getMessage() for r in caplog.records if "Traceback" in r.getMessage())
    assert trace.splitlines()[-1].startswith("MaskError: Every mask of picture 1 is empty")


RUNS = {
    "no steps at all": (
        {"preset__token_steps": 0, "preset__weight_steps": 0},
        "token_steps + weight_steps is 0; it must be 1 or more",
    ),
    "negative steps": ({"preset__token_steps": -1}, "Value -1 smaller than min of 0"),
    "a negative rate": ({"preset__token_rate": -1e-4}, "smaller than min"),
    "a rate that is no number": ({"preset__token_rate": float("nan")}, "token_rate is nan"),
    "a name that leads out": ({"name": "../../outside"}, "is not a file name here"),
    "an absolute name": ({"name": "/tmp/outside"}, "is not a file name here"),
    "a level that the model has not": (
        {"preset__attention_level": 8},
        "attention_level is 8; it must be one of 1, 2, 4 for this model, or 0",
    ),
}


@pytest.mark.parametrize("case", RUNS)
def test_runs_that_cannot_be_are_refused(executor: Executor, sd1: Graph, folders: Path, case: str):
    inputs, message = RUNS[case]
    before = state_of(sd1.model), state_of(sd1.clip.patcher)
    result = train(executor, sd1, **inputs)
    assert message in result.error
    assert not list(folders.rglob("*.safetensors"))
    assert_same_state(sd1.model, before[0])
    assert_same_state(sd1.clip.patcher, before[1])


def test_a_name_that_the_model_knows_is_reported(
    executor: Executor, sd1: Graph, caplog: pytest.LogCaptureFixture
):
    assert train(executor, sd1, concepts="cat: cup\nmy-toy: toy").error == ""
    assert "<cat> is also an ordinary word that the model knows" in caplog.text


def test_a_loss_that_explodes_stops_with_advice(
    executor: Executor, sd1: Graph, folders: Path, monkeypatch: pytest.MonkeyPatch
):
    """From step 3 on the VAE's latents are not what the loss expects: it is NaN."""
    before = state_of(sd1.model)
    learn = sys.modules[pack_nodes()["ConceptLoomCrossAttentionLossTrainer"].__module__]
    recipe = sys.modules[f"{learn.__package__.rpartition('.')[0]}.methods.break_a_scene.recipe"]
    losses, calls = recipe.BreakAScene.losses, []

    def broken(self: Any, phase: Any, draw: Any) -> Any:
        calls.append(phase)
        terms = losses(self, phase, draw)
        return {n: v * float("nan") for n, v in terms.items()} if len(calls) > 2 else terms

    monkeypatch.setattr(recipe.BreakAScene, "losses", broken)
    result = train(executor, sd1, name="exploding")
    assert result.kind == "DivergedError"
    assert "Training stopped at step 3" in result.error
    assert "Lower the learning rate" in result.error
    assert list(folders.rglob("state-*.safetensors"))
    assert_same_state(sd1.model, before)


def test_class_images_of_another_size_are_refused(executor: Executor, sd1: Graph):
    graph = {
        "1": scene(),
        "2": node(
            "CrossAttentionLossTrainer", **MODEL_LINKS, scene=["1", 0], **QUICK,
            prior_images=given("others"), preset__prior_weight=1.0,
        ),
    }  # fmt: skip
    values = {**values_of(sd1), "image": image(), "masks": masks(), "others": image(side=64)}
    assert "The class images are 64x64 px" in executor.run(graph, values).error


def test_models_without_cross_attention_are_told_from_the_rest(executor: Executor, sd1: Graph):
    transformer = SimpleNamespace(model=SimpleNamespace(diffusion_model=torch.nn.Identity()))
    result = train(executor, Graph(transformer, sd1.clip, sd1.vae))
    assert result.kind == "UnsupportedModelError"
    assert "This MODEL is a Identity; ConceptLoom works on Stable Diffusion" in result.error


def test_a_concept_of_another_base_is_refused(executor: Executor, learned: Any):
    from tiny_models import graph_of

    other = graph_of("sd2")
    before = state_of(other.model)
    result = apply(executor, other, learned)
    assert result.kind == "BaseMismatchError"
    assert "The concept <my-mug>, <my-toy> was trained on the base model" in result.error
    assert_same_state(other.model, before)


def test_a_word_that_the_prompt_does_not_hold(executor: Executor, sd1: Graph):
    reading = node(
        "AttentionMaps", **MODEL_LINKS, image=given("image"), prompt="a photo of a cup",
        words="<my-mug>", timesteps="400", level=0, seed=0,
    )  # fmt: skip
    result = executor.run({"1": reading}, {**values_of(sd1), "image": image()}, told=["1", 2])
    assert result.kind == "PromptError"
    assert "does not contain '<my-mug>'" in result.error


READINGS = {
    "no word": ({"words": " "}, "words is ''; it must be one or more words"),
    "a timestep that is none": ({"timesteps": "soon"}, "it must be whole numbers"),
    "a timestep beyond the last": ({"timesteps": "1000"}, "it must be between 0 and 999"),
    "too many masks": ({"masks": given("masks")}, "2 masks came for 1 words"),
}


@pytest.mark.parametrize("case", READINGS)
def test_readings_that_cannot_be_are_refused(executor: Executor, sd1: Graph, case: str):
    inputs, message = READINGS[case]
    asked = {"words": "cup", "timesteps": "400", **inputs}
    reading = node(
        "AttentionMaps", **MODEL_LINKS, image=given("image"), prompt="a photo of a cup",
        level=0, seed=0, **asked,
    )  # fmt: skip
    values = {**values_of(sd1), "image": image(), "masks": masks()}
    assert message in executor.run({"1": reading}, values, told=["1", 2]).error
