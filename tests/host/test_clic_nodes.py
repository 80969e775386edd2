"""The trainer's CLiC presets and the Soft Mask Builder through ComfyUI's own executor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import comfy.model_management
import comfy.utils
import folder_paths
import pytest
import torch
from executor import Executor, Result, given, node
from tiny_models import Graph, assert_same_state, state_of

SIDE = 32
QUICK = {
    "preset": "CLiC",
    "preset__token_steps": 2,
    "preset__weight_steps": 3,
    "preset__batch_size": 1,
    "preset__views": 2,
    "preset__object_word": "chair",
    "name": "test-run",
    "seed": 0,
    "preview_every": 0,
    "preview_prompts": "",
    "preview_steps": 1,
    "preview_cfg": 1.0,
}
IMAGE = torch.rand(1, SIDE, SIDE, 3, generator=torch.Generator().manual_seed(0))
MASK = torch.zeros(1, SIDE, SIDE)
MASK[0, 6:22, 8:24] = 1


@pytest.fixture(autouse=True)
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(folder_paths, "output_directory", str(tmp_path / "output"))
    monkeypatch.setattr(folder_paths, "temp_directory", str(tmp_path / "temp"))
    return tmp_path


@pytest.fixture(scope="module")
def executor() -> Executor:
    return Executor()


def train(executor: Executor, models: Graph, mask: torch.Tensor = MASK, **inputs: Any) -> Result:
    """A short run on a random model; the inputs replace those of QUICK."""
    scene = node(
        "ConceptScene", images=given("image"), concepts="my-mark: swirl", background="",
        masks__mask0=given("mask"),
    )  # fmt: skip
    links = {"model": given("model"), "clip": given("clip"), "vae": given("vae")}
    values = {"model": models.model, "clip": models.clip, "vae": models.vae, "image": IMAGE}
    if inputs.pop("prior", False):
        links["prior_images"] = given("image")
    graph = {
        "1": scene,
        "2": node("CrossAttentionLossTrainer", **links, scene=["1", 0], **{**QUICK, **inputs}),
    }
    names = ["concept", "model", "clip", "samples", "timeline", "attention", "plot", "map", "told"]
    wanted = {name: ["2", i] for i, name in enumerate(names)}
    return executor.run(graph, {**values, "mask": mask}, **wanted)


def test_a_detail_is_learned_and_the_models_stay_as_they_were(
    executor: Executor, sd1: Graph, folders: Path
):
    before = state_of(sd1.model), state_of(sd1.clip.patcher)
    result = train(executor, sd1, preview_every=100)  # at the end only
    assert result.error == ""
    concept = result.values["concept"]
    assert (concept.method, list(concept.handles)) == ("clic", ["my-mark"])
    assert concept.prompts == ("A photo of <my-mark>", "a chair with <my-mark> style")
    assert concept.weights
    assert all(".attn2.to_" in name for name in concept.weights)
    told = result.values["told"]
    assert "context" in told
    assert "roi" in told
    assert "Use: a chair with <my-mark> style" in told
    assert result.values["samples"].shape == (2, SIDE, SIDE, 3)
    assert len(result.values["map"]["loss"]) == 5
    assert list(folders.rglob("test-run-*.safetensors"))
    assert_same_state(sd1.model, before[0])
    assert_same_state(sd1.clip.patcher, before[1])


@pytest.mark.parametrize("preset", ["CLiC", "CLiC official", "CLiC low-rank", "Custom Diffusion"])
def test_every_preset_learns(executor: Executor, sd1: Graph, preset: str):
    brief = {"preset": preset, "preset__token_steps": 0, "preset__weight_steps": 1}
    result = train(executor, sd1, **brief)
    assert result.error == ""
    terms = set(result.values["concept"].history) - {"steps", "total"}
    plain = preset == "Custom Diffusion"
    assert terms == ({"context"} if plain else {"context", "attention", "roi"})


def test_every_knob_of_words_arrives(executor: Executor, sd1: Graph):
    result = train(
        executor, sd1, preset__prompt="{concept} on a {object}",
        preset__roi_prompts="just {concept}\n{concept} alone", preset__roi_form="official",
        preset__context_form="official",
    )  # fmt: skip
    assert result.error == ""
    recipe = result.values["concept"].recipe
    assert recipe["roi_prompts"] == ("just {concept}", "{concept} alone")
    assert (recipe["roi_form"], recipe["context_form"]) == ("official", "official")
    assert result.values["concept"].prompts == ("just <my-mark>", "<my-mark> on a chair")


def test_cancelling_keeps_the_work_and_queueing_again_goes_on(
    executor: Executor, sd1: Graph, folders: Path, monkeypatch: pytest.MonkeyPatch
):
    before, seen = state_of(sd1.model), []
    update = comfy.utils.ProgressBar.update_absolute

    def watched(bar: Any, value: int, total: int | None = None, preview: Any = None) -> None:
        if total == 5 and value:
            seen.append(value)
            if seen == [1, 2, 3]:
                comfy.model_management.interrupt_current_processing()
        update(bar, value, total, preview)

    monkeypatch.setattr(comfy.utils.ProgressBar, "update_absolute", watched)
    stopped = train(executor, sd1, name="stopped")
    assert stopped.was_cancelled
    assert_same_state(sd1.model, before)
    assert train(executor, sd1, name="stopped").error == ""
    assert seen == [1, 2, 3, 4, 5]
    assert train(executor, sd1, name="whole").error == ""
    one, two = (next(folders.rglob(f"{name}-*.safetensors")) for name in ("stopped", "whole"))
    assert one.read_bytes() == two.read_bytes()


BAD = {
    "an empty mask": ({"mask": MASK * 0}, "MaskError", "Every mask of picture 1 is empty"),
    "another size": ({"mask": MASK[:, : SIDE // 2]}, "MaskError", "a different aspect ratio"),
    "prior preservation": ({"prior": True}, "ImageError", "remove them (prior_images"),
    "no place for the name": (
        {"preset__prompt": "a chair"}, "ConfigError", "a text that contains {concept}"
    ),
    "no object": ({"preset__object_word": ""}, "ConfigError", "a word for the object that carries"),
    "nothing to learn by": (
        {f"preset__{name}_weight": 0.0 for name in ("context", "attention", "roi")},
        "ConfigError", "context_weight is 0",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_runs_that_cannot_be_are_refused(executor: Executor, sd1: Graph, case: str):
    inputs, kind, message = BAD[case]
    before = state_of(sd1.model)
    result = train(executor, sd1, **inputs)
    assert result.kind == kind, result.error
    assert message in result.error
    assert_same_state(sd1.model, before)


def test_a_full_mask_is_learned_as_it_is(executor: Executor, sd1: Graph):
    result = train(executor, sd1, mask=torch.ones(1, SIDE, SIDE))
    assert result.error == ""
    assert result.values["concept"].history["context"] > 0


# Soft Mask Builder


def build(executor: Executor, mask: torch.Tensor, **inputs: Any) -> Result:
    settings = {
        "background_weight": 0.5, "grow_px": 0, "feather_px": 0.0, "threshold": 0.0,
        "invert": False, "attention_level": 4,
    }  # fmt: skip
    graph = {"1": node("SoftMaskBuilder", mask=given("mask"), **{**settings, **inputs})}
    names = ["soft", "mask", "preview", "told"]
    wanted = {name: ["1", i] for i, name in enumerate(names)}
    return executor.run(graph, {"mask": mask}, **wanted)


def test_a_batch_of_masks_is_softened_and_shown(executor: Executor):
    batch, before = torch.cat([MASK, MASK.flip(1)]), torch.cat([MASK, MASK.flip(1)])
    result = build(executor, batch)
    assert result.error == ""
    assert torch.equal(result.values["mask"], batch)
    assert torch.equal(result.values["soft"], 0.5 + 0.5 * batch)
    assert torch.equal(batch, before)
    assert result.values["preview"].shape[0] == 1
    lines = result.values["told"].splitlines()
    assert [line.split(",")[1].split()[0] for line in lines[:3]] == [
        "pixels",
        "latents",
        "attention",
    ]
    assert len(lines) == 6


def test_masks_are_grown_feathered_cut_and_inverted(executor: Executor):
    grown = build(executor, MASK, grow_px=2).values["mask"]
    assert float(grown.sum()) > float(MASK.sum())
    soft = build(executor, MASK, feather_px=1.0).values["mask"]
    assert len(soft.unique()) > 2
    assert torch.equal(build(executor, MASK * 0.4, threshold=0.3).values["mask"], MASK)
    assert torch.equal(build(executor, MASK, invert=True).values["mask"], 1 - MASK)


def test_a_mask_of_which_nothing_is_left_is_reported(executor: Executor):
    assert "Mask 1 is empty" in build(executor, MASK * 0).error
    assert "empty after shrinking by 9 px" in build(executor, MASK, grow_px=-9).error
    full = build(executor, torch.ones(1, SIDE, SIDE))
    assert full.error == ""
    assert "outside nothing" in full.values["told"]
