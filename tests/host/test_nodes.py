"""The nodes through ComfyUI's own executor: what they make, what they refuse, what they leave."""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import comfy.model_management
import comfy.utils
import folder_paths
import pytest
import torch
from executor import Executor, Result, given, node, pack_nodes
from tiny_models import Graph, assert_same_state, state_of

SIDE = 32
MODEL_LINKS = {"model": given("model"), "clip": given("clip"), "vae": given("vae")}
QUICK = {
    "preset": "TinyWorld quick",
    "preset__token_steps": 3,
    "preset__weight_steps": 3,
    "preset__prior_pictures": 1,
    "preset__prior_sampling_steps": 1,
    "preset__batch_size": 1,
    "name": "test-run",
    "seed": 0,
    "preview_every": 0,
    "preview_prompts": "a photo of <my-mug>",
    "preview_steps": 1,
    "preview_cfg": 1.0,
}


@pytest.fixture(autouse=True)
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, executor: Executor) -> Path:
    """ComfyUI's folders, all of them empty; the pack registers its own in `executor`."""
    known = dict(folder_paths.folder_names_and_paths)
    for kind in ("concepts", "loras", "embeddings"):
        place = tmp_path / "models" / kind
        place.mkdir(parents=True)
        monkeypatch.setitem(known, kind, ([str(place)], {".safetensors"}))
    monkeypatch.setattr(folder_paths, "folder_names_and_paths", known)
    monkeypatch.setattr(folder_paths, "output_directory", str(tmp_path / "output"))
    monkeypatch.setattr(folder_paths, "temp_directory", str(tmp_path / "temp"))
    folder_paths.filename_list_cache.clear()
    return tmp_path


@pytest.fixture(scope="module")
def executor() -> Executor:
    return Executor()


def masks(count: int = 2, side: int = SIDE) -> torch.Tensor:
    """Squares beside each other, [n, side, side]."""
    found, step = torch.zeros(count, side, side), side // count
    for i in range(count):
        found[i, 4:-4, i * step + 2 : (i + 1) * step - 2] = 1
    return found


def image(side: int = SIDE, count: int = 1, channels: int = 3) -> torch.Tensor:
    return torch.rand(count, side, side, channels, generator=torch.Generator().manual_seed(0))


IMAGE, MASKS = image(), masks()  # the same objects every time, so that ComfyUI's cache knows them


def knows(clip: Any, handle: str) -> bool:
    """Whether a CLIP takes a handle for a vector and not for letters."""
    return any(isinstance(token, torch.Tensor) for token, _ in clip.tokenize(handle)["l"][0])


def scene(images: Any = "image", concepts: str = "my-mug: cup\nmy-toy: toy", **inputs: Any) -> dict:
    inputs = {"masks__mask0": given("masks"), "background": "", **inputs}
    return node("ConceptScene", images=given(images), concepts=concepts, **inputs)


def make_scene(executor: Executor, picture: Any, rows: Any, **inputs: Any) -> Result:
    graph = {"1": scene(**inputs)}
    return executor.run(graph, {"image": picture, "masks": rows}, scene=["1", 0], handles=["1", 2])


def train(executor: Executor, models: Graph, **inputs: Any) -> Result:
    """A short run on a random model; the inputs replace those of QUICK."""
    graph = {
        "1": scene(concepts=inputs.pop("concepts", "my-mug: cup\nmy-toy: toy")),
        "2": node(
            "CrossAttentionLossTrainer", **MODEL_LINKS, scene=["1", 0], **{**QUICK, **inputs}
        ),
    }
    outputs = ["concept", "model", "clip", "samples", "timeline", "attention", "plot"]
    outputs += ["map", "told"]
    wanted = {name: ["2", i] for i, name in enumerate(outputs)}
    return executor.run(graph, {**values_of(models), "image": IMAGE, "masks": MASKS}, **wanted)


def values_of(models: Graph) -> dict[str, Any]:
    return {"model": models.model, "clip": models.clip, "vae": models.vae}


@pytest.fixture(scope="module")
def learned(executor: Executor, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A concept of a short run."""
    from tiny_models import graph_of

    folder_paths.output_directory, before = (
        str(tmp_path_factory.mktemp("learned")),
        folder_paths.output_directory,
    )
    try:
        result = train(executor, graph_of("sd1"))
    finally:
        folder_paths.output_directory = before
    assert result.error == ""
    return result.values["concept"]


# What goes well


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
    assert fresh.values["told"] == first.values["told"]
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


def apply(executor: Executor, models: Graph, concept: Any, strength: float = 1.0) -> Result:
    inputs = {"model": given("model"), "clip": given("clip"), "concept": given("concept")}
    graph = {"1": node("ApplyConcept", **inputs, strength=strength)}
    values = {**values_of(models), "concept": concept}
    return executor.run(graph, values, model=["1", 0], clip=["1", 1])


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


# Bad input: what it says, and that nothing is lost

SCENES = {
    "a mask of another aspect": (
        dict(picture=image(), rows=masks()[:, : SIDE // 2]),
        "MaskError",
        "The mask of <my-mug> is 32x16 px but its picture is 32x32 px, another aspect",
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
        "The handle <my-mug> comes twice",
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


RUNS = {
    "no steps at all": (
        {"preset__token_steps": 0, "preset__weight_steps": 0},
        "steps is 0; it must be at least 1 in one of the two phases",
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


def test_a_name_that_the_model_knows_is_told(
    executor: Executor, sd1: Graph, caplog: pytest.LogCaptureFixture
):
    assert train(executor, sd1, concepts="cat: cup\nmy-toy: toy").error == ""
    assert "<cat> is also a word that the model knows" in caplog.text


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
    assert "Learning stopped at step 3" in result.error
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
    assert "This MODEL is a Identity; ConceptLoom works inside of UNets" in result.error


def test_a_concept_of_another_base_is_refused(executor: Executor, learned: Any):
    from tiny_models import graph_of

    other = graph_of("sd2")
    before = state_of(other.model)
    result = apply(executor, other, learned)
    assert result.kind == "BaseMismatchError"
    assert "The concept <my-mug>, <my-toy> was learned on the base model" in result.error
    assert_same_state(other.model, before)


def test_a_word_that_the_prompt_does_not_hold(executor: Executor, sd1: Graph):
    reading = node(
        "AttentionMaps", **MODEL_LINKS, image=given("image"), prompt="a photo of a cup",
        words="<my-mug>", timesteps="400", level=0, seed=0,
    )  # fmt: skip
    result = executor.run({"1": reading}, {**values_of(sd1), "image": image()}, told=["1", 2])
    assert result.kind == "PromptError"
    assert "does not hold '<my-mug>'" in result.error


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


@pytest.mark.parametrize("name", ["../out", "/tmp/out", "C:\\out", "a/../../out", "con", ""])
@pytest.mark.parametrize("kind", ["SaveConcept", "ExportConcept"])
def test_files_stay_in_their_folder(
    executor: Executor, learned: Any, folders: Path, kind: str, name: str
):
    more = {"rank": 8} if kind == "ExportConcept" else {}
    graph = {"1": node(kind, concept=given("concept"), name=name, overwrite=True, **more)}
    result = executor.run(graph, {"concept": learned})
    assert result.kind == "ConceptFileError"
    assert repr(name) in result.error
    assert not list(folders.rglob("*.safetensors"))


@pytest.mark.parametrize("name", ["../secret.safetensors", "/etc/passwd", "absent.safetensors"])
def test_only_listed_concepts_are_loaded(executor: Executor, folders: Path, name: str):
    (folders / "models" / "secret.safetensors").write_bytes(b"secret")
    result = executor.run({"1": node("LoadConcept", concept_name=name, rename="")}, it=["1", 0])
    assert "not in" in result.error or "There is no concept" in result.error


FILES = {
    "garbage": b"\xff" * 64,
    "a pickle": b"\x80\x04\x95\x0b\x00\x00\x00\x00\x00\x00\x00\x8c\x07builtins.",
    "nothing": b"",
    "a web page": b"<!DOCTYPE html><html></html>",
}


@pytest.mark.parametrize("case", FILES)
def test_foreign_files_are_refused(executor: Executor, folders: Path, case: str):
    (folders / "models/concepts/bad.safetensors").write_bytes(FILES[case])
    load = {"1": node("LoadConcept", concept_name="bad.safetensors", rename="")}
    result = executor.run(load, it=["1", 0])
    assert result.kind == "ConceptFileError"
    assert "bad.safetensors" in result.error


def test_files_are_not_replaced_unasked(executor: Executor, learned: Any, folders: Path):
    for kind, more in (("SaveConcept", {}), ("ExportConcept", {"rank": 8})):
        inputs = {"concept": given("concept"), "name": "mine", **more}
        first = executor.run({"1": node(kind, **inputs, overwrite=False)}, {"concept": learned})
        assert first.error == ""
        written = {path: path.stat().st_mtime_ns for path in folders.rglob("*.safetensors")}
        again = {
            "1": node(kind, **inputs, overwrite=False),
            "2": node("InspectConcept", concept=given("concept")),
        }
        executor = Executor()
        result = executor.run(again, {"concept": learned})
        assert "is there already" in result.error
        assert {path: path.stat().st_mtime_ns for path in written} == written


def test_a_full_disk_leaves_what_was_there(
    executor: Executor, learned: Any, folders: Path, monkeypatch: pytest.MonkeyPatch
):
    graph = {"1": node("SaveConcept", concept=given("concept"), name="mine", overwrite=True)}
    assert executor.run(graph, {"concept": learned}).error == ""
    path = folders / "models/concepts/mine.safetensors"
    before = path.read_bytes()

    def full(*args: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    result = Executor().run(graph, {"concept": learned})
    assert result.kind == "StorageError"
    assert "the disk is full" in result.error
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == ["mine.safetensors"]


def test_renaming_a_handle_that_is_not_there(executor: Executor, learned: Any):
    save = node("SaveConcept", concept=given("concept"), name="mug", overwrite=False)
    executor.run({"1": save}, {"concept": learned})
    load = node("LoadConcept", concept_name="mug.safetensors", rename="cup: mug")
    result = executor.run({"1": load}, it=["1", 0])
    assert "The concept has no handle <cup>; it has <my-mug>, <my-toy>" in result.error


@pytest.mark.parametrize(
    ("objects", "message"),
    [
        ("teapot", "unknown object 'teapot'; concepts are"),
        ("", "it must be 1 to 3 names"),
        ("fish, mug, moon, eye", "it must be 1 to 3 names"),
    ],
)
def test_objects_that_tinyworld_has_not(executor: Executor, objects: str, message: str):
    picture = node("TinyWorldScene", objects=objects, background="white", seed=0, size=64)
    assert message in executor.run({"1": picture}, it=["1", 0]).error
