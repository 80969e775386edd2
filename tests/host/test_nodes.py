"""The Concept Scene and trainer nodes, and what a concept does in a graph, in ComfyUI."""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path
from typing import Any

import comfy.model_management
import comfy.utils
import PIL.Image
import pytest
import torch
from executor import Executor, given, node
from scene_graphs import (
    SIDE,
    apply,
    image,
    knows,
    make_scene,
    masks,
    scene,
    train,
)
from tiny_models import Graph, assert_same_state, state_of

from conceptloom.concepts.concept_file import load_concept
from conceptloom.nodes.presets import settings_of

pytestmark = pytest.mark.usefixtures("folders")


def test_one_picture_and_a_batch_of_masks_make_a_scene(executor: Executor):
    result = make_scene(executor, image(), masks())
    assert result.error == ""
    made = result.values["scene"]
    assert made.names == ["my-mug", "my-toy"]
    assert made.words == {"my-mug": "cup", "my-toy": "toy"}
    assert torch.equal(made.images[0].masks["my-toy"], masks()[1])
    assert result.values["handles"] == "<my-mug>, <my-toy>"


def test_a_socket_per_concept_and_a_mask_per_picture(executor: Executor):
    first, second = torch.stack([masks()[0], torch.zeros(SIDE, SIDE)]), masks()[1].expand(2, -1, -1)
    graph = {"1": scene(masks__mask0=given("a"), masks__mask1=given("b"))}
    values = {"image": image(count=2), "a": first, "b": second}
    made = executor.run(graph, values, scene=["1", 0]).values["scene"]
    assert [list(picture.masks) for picture in made.images] == [["my-mug", "my-toy"], ["my-toy"]]


def test_the_alpha_channel_of_a_picture_is_left_out(executor: Executor):
    made = make_scene(executor, image(channels=4), masks()).values["scene"]
    assert made.images[0].image.shape == (SIDE, SIDE, 3)


def test_masks_of_the_same_aspect_are_resized(executor: Executor):
    made = make_scene(executor, image(), masks(side=2 * SIDE)).values["scene"]
    assert made.images[0].masks["my-mug"].shape == (SIDE, SIDE)


def test_the_background_is_one_concept_more(executor: Executor):
    made = make_scene(executor, image(), masks(), background="my-room: room").values["scene"]
    assert made.names == ["my-mug", "my-toy", "my-room"]
    assert torch.equal(made.images[0].masks["my-room"], 1 - masks().amax(dim=0))


def test_training_gives_a_concept_models_pictures_and_a_report(
    executor: Executor, sd1: Graph, folders: Path
):
    before = state_of(sd1.model), state_of(sd1.clip.patcher)
    result = train(executor, sd1, preview_every=3)
    assert result.error == ""
    values = result.values
    assert values["concept"].names == ["my-mug", "my-toy"]
    assert values["concept"].weights
    assert values["samples"].shape == (1, SIDE, SIDE, 3)
    assert all(values[name].ndim == 4 for name in ("timeline", "attention", "plot"))
    assert len(values["map"]["loss"]) == 6
    assert "<my-mug>: IoU" in values["told"]
    assert "States: 1 saved state" in values["told"]
    saved = next(line for line in values["told"].splitlines() if line.startswith("Saved: "))
    assert Path(saved.removeprefix("Saved: ")).is_file()
    assert str(folders) in saved
    assert values["model"] is not sd1.model
    assert knows(values["clip"], "a <my-mug>")
    assert not knows(sd1.clip, "a <my-mug>")
    assert_same_state(sd1.model, before[0])
    assert_same_state(sd1.clip.patcher, before[1])


def test_the_same_run_is_not_done_twice(executor: Executor, sd1: Graph, folders: Path):
    first = train(executor, sd1)
    trained = {"2"} & first.executed
    again = train(executor, sd1)
    assert trained == {"2"}
    assert not {"2"} & again.executed  # ComfyUI's own cache
    states = sorted(folders.rglob("state-*.safetensors"))
    fresh = train(Executor(), sd1)  # as after a restart
    told = [re.sub(r"about \d+ \w+", "", run.values["told"]) for run in (first, fresh)]
    assert told[0] == told[1]  # but for the time that a run is expected to take
    assert sorted(folders.rglob("state-*.safetensors")) == states


def test_the_same_seed_gives_the_same_file(executor: Executor, sd1: Graph, folders: Path):
    train(executor, sd1, name="one")
    train(executor, sd1, name="two")
    one, two = (next(folders.rglob(f"{name}-*.safetensors")) for name in ("one", "two"))
    assert one.read_bytes() == two.read_bytes()


def test_saved_concepts_load_as_they_were(executor: Executor, learned: Any, folders: Path):
    save = {"1": node("SaveConcept", concept=given("concept"), name="a/mug", overwrite=False)}
    assert executor.run(save, {"concept": learned}).error == ""
    load = {"1": node("LoadConcept", concept_name=os.path.join("a", "mug.safetensors"), rename="")}
    loaded = executor.run(load, concept=["1", 0], handles=["1", 1]).values
    assert loaded["handles"] == "<my-mug>, <my-toy>"
    for name, vectors in learned.handles.items():
        assert torch.equal(loaded["concept"].handles[name]["clip_l"], vectors["clip_l"])
    assert loaded["concept"].weights.keys() == learned.weights.keys()


def test_handles_can_be_renamed_while_loading(executor: Executor, learned: Any):
    executor.run(
        {"1": node("SaveConcept", concept=given("concept"), name="mug", overwrite=False)},
        {"concept": learned},
    )
    load = node("LoadConcept", concept_name="mug.safetensors", rename="my-mug: blue-mug")
    loaded = executor.run({"1": load}, concept=["1", 0]).values["concept"]
    assert loaded.names == ["blue-mug", "my-toy"]


def test_a_file_that_changed_is_loaded_again(executor: Executor, learned: Any, folders: Path):
    graph = {"1": node("SaveConcept", concept=given("concept"), name="mug", overwrite=True)}
    executor.run(graph, {"concept": learned})
    load = {"1": node("LoadConcept", concept_name="mug.safetensors", rename="")}
    assert "1" in executor.run(load, concept=["1", 0]).executed
    assert "1" not in executor.run(load, concept=["1", 0]).executed
    path = folders / "models" / "concepts" / "mug.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    assert "mug.safetensors" in executor.run(load, concept=["1", 0]).error


def test_strength_zero_leaves_the_weights_bit_for_bit(executor: Executor, sd1: Graph, learned: Any):
    values = apply(executor, sd1, learned, strength=0.0).values
    assert not values["model"].patches
    assert not values["clip"].patcher.patches
    assert knows(values["clip"], "<my-mug>")


def test_an_applied_concept_is_seen_by_attention_maps(executor: Executor, sd1: Graph, learned: Any):
    applied = apply(executor, sd1, learned).values
    reading = node(
        "AttentionMaps", model=given("model"), clip=given("clip"), vae=given("vae"),
        image=given("image"), prompt="a photo of <my-mug> on a red table", timesteps="400",
        words="<my-mug>, red table", masks=given("masks"), level=0, seed=0,
    )  # fmt: skip
    values = {**applied, "vae": sd1.vae, "image": image(), "masks": masks()}
    result = executor.run({"1": reading}, values, overlay=["1", 0], maps=["1", 1], told=["1", 2])
    assert result.error == ""
    assert result.values["maps"].shape == (2, SIDE, SIDE)
    assert result.values["maps"].amax(dim=(1, 2)).allclose(torch.ones(2), atol=0.2)
    assert [line.split(":")[0] for line in result.values["told"].splitlines()] == [
        "<my-mug>",
        "red table",
    ]


def test_export_writes_what_core_nodes_read(executor: Executor, learned: Any, folders: Path):
    graph = {
        "1": node("ExportConcept", concept=given("concept"), name="mine", rank=8, overwrite=False)
    }
    result = executor.run(graph, {"concept": learned}, told=["1", 0])
    assert result.error == ""
    assert (folders / "models/loras/mine.safetensors").is_file()
    assert (folders / "models/embeddings/my-mug.safetensors").is_file()
    assert "embedding:my-mug" in result.values["told"]


def test_inspect_tells_what_is_in_a_concept(executor: Executor, learned: Any):
    graph = {"1": node("InspectConcept", concept=given("concept"))}
    values = {"concept": learned}
    told = executor.run(graph, values, image=["1", 0], text=["1", 1], prompt=["1", 2]).values
    assert "<my-mug>, word 'cup'" in told["text"]
    assert told["prompt"] == "a photo of <my-mug> and <my-toy>"
    assert told["image"].ndim == 4


# Cancelling


def watching_steps(monkeypatch: pytest.MonkeyPatch, cancel_at: int = -1) -> list[int]:
    """Steps that the node reports from here on; cancel is pressed at one of them."""
    seen: list[int] = []
    update = comfy.utils.ProgressBar.update_absolute

    def watched(bar: Any, value: int, total: int | None = None, preview: Any = None) -> None:
        if total == 6 and value:
            seen.append(value)
        if total == 6 and value == cancel_at:
            comfy.model_management.interrupt_current_processing()
        update(bar, value, total, preview)

    monkeypatch.setattr(comfy.utils.ProgressBar, "update_absolute", watched)
    return seen


@pytest.mark.parametrize("step", [1, 4], ids=["phase 1", "phase 2"])
def test_cancelling_keeps_the_work_and_queueing_again_goes_on(
    executor: Executor, sd1: Graph, folders: Path, monkeypatch: pytest.MonkeyPatch, step: int
):
    before = state_of(sd1.model), state_of(sd1.clip.patcher)
    with monkeypatch.context() as patch:
        watching_steps(patch, cancel_at=step)
        stopped = train(executor, sd1, name="stopped")
    assert stopped.was_cancelled
    assert not stopped.values
    assert_same_state(sd1.model, before[0])
    assert_same_state(sd1.clip.patcher, before[1])
    assert [path.name for path in folders.rglob("state-*.safetensors")] != []
    steps = watching_steps(monkeypatch)
    resumed = train(executor, sd1, name="stopped")
    assert resumed.error == ""
    assert min(steps) > step
    train(executor, sd1, name="whole")
    one, two = (next(folders.rglob(f"{name}-*.safetensors")) for name in ("stopped", "whole"))
    assert one.read_bytes() == two.read_bytes()


# Names, measured in bytes: a letter of Korean takes three


@pytest.mark.parametrize("letters", [75, 78])
def test_a_long_name_that_is_accepted_is_saved(
    executor: Executor, sd1: Graph, folders: Path, letters: int
):
    name = "\uac00" * letters
    result = train(executor, sd1, name=name)
    assert result.error == ""
    saved = next(line for line in result.values["told"].splitlines() if line.startswith("Saved: "))
    assert Path(saved.removeprefix("Saved: ")).is_file()
    save = {"1": node("SaveConcept", concept=given("concept"), name=name, overwrite=False)}
    assert executor.run(save, {"concept": result.values["concept"]}).error == ""
    assert (folders / "models" / "concepts" / f"{name}.safetensors").is_file()


def test_a_name_that_is_too_long_is_refused_before_the_first_step(
    executor: Executor, sd1: Graph, folders: Path, monkeypatch: pytest.MonkeyPatch
):
    steps = watching_steps(monkeypatch)
    result = train(executor, sd1, name="\uac00" * 79)
    assert result.kind == "ConceptFileError"
    assert "bytes" in result.error
    assert not steps
    assert not list(folders.rglob("*\uac00*"))


def test_a_full_disk_costs_the_file_and_not_the_concept(
    executor: Executor, sd1: Graph, folders: Path, monkeypatch: pytest.MonkeyPatch
):
    def full(*args: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    real = PIL.Image.Image.save

    def save(picture: Any, target: Any, *args: Any, **more: Any) -> None:
        if isinstance(target, str):  # how the host shows pictures
            full()
        real(picture, target, *args, **more)

    monkeypatch.setattr(os, "fsync", full)
    monkeypatch.setattr(PIL.Image.Image, "save", save)
    result = train(executor, sd1, name="full")
    assert result.error == ""
    assert result.values["concept"].names == ["my-mug", "my-toy"]
    assert "NOT SAVED" in result.values["told"]
    assert "the disk is full" in result.values["told"]
    assert "Save Concept" in result.values["told"]
    assert not list(folders.rglob("*.safetensors"))


def test_cancelling_while_the_last_pictures_are_drawn_leaves_the_concept(
    executor: Executor, sd1: Graph, folders: Path, monkeypatch: pytest.MonkeyPatch
):
    before, passes = state_of(sd1.model), list[int]()
    update, network = comfy.utils.ProgressBar.update_absolute, type(sd1.model.model.diffusion_model)
    forward, learned = network.forward, list[int]()

    def watched(bar: Any, value: int, total: int | None = None, preview: Any = None) -> None:
        update(bar, value, total, preview)
        if total == 6 and value == 6:
            learned.append(value)
        elif learned and total != 6 and not comfy.model_management.interrupt_processing:
            passes.clear()
            comfy.model_management.interrupt_current_processing()

    def counted(self: Any, *args: Any, **kwargs: Any) -> Any:
        passes.append(1)
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(comfy.utils.ProgressBar, "update_absolute", watched)
    monkeypatch.setattr(network, "forward", counted)
    result = train(executor, sd1, name="drawing")
    assert result.was_cancelled
    assert len(passes) <= 1
    (path,) = folders.rglob("drawing-*.safetensors")
    assert load_concept(path).names == ["my-mug", "my-toy"]
    assert_same_state(sd1.model, before)


def test_a_saved_prompt_may_call_a_knob_by_its_earlier_name(executor: Executor, sd1: Graph):
    assert "max_grad_norm" in train(executor, sd1, preset__clip=-1.0).error
    read = settings_of({"preset": "CLiC"}, **{"preset.clip": 0.25, "preset.unknown": 1, "seed": 3})
    assert (read.loop.max_grad_norm, read.config.seed) == (0.25, 3)
    assert train(executor, sd1, preset__clip=0.5, preset__unknown=1).error == ""
