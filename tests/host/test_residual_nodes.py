"""Residuals and LAG through ComfyUI's own executor, and one concept in both hosts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import comfy.utils
import folder_paths
import numpy as np
import pytest
import torch
from executor import Executor, Result, given, node
from tiny_models import Graph, assert_same_state, state_of

SIDE = 32
MODEL_LINKS = {"model": given("model"), "clip": given("clip"), "vae": given("vae")}
TEACHING = {
    "handle": "my-cat", "class_word": "cat", "captions": "", "name": "test-run", "steps": 2,
    "batch_size": 1, "learning_rate": 0.05, "ratio": 0.05, "seed": 0, "resolution_px": 0,
    "checkpointing": False, "start": "both random", "rare_token": "ktn", "train_handle": False,
    "handle_rate": 5e-4, "prompt": "a photo of a {}", "flip": 0.0, "accumulation": 1,
    "save_every": 100, "preview_every": 0, "preview_prompts": "", "preview_steps": 1,
    "preview_cfg": 1.0,
}  # fmt: skip
LAG = {
    "strength": 1.0, "localised": True, "quantile": 0.5, "softness": 0.0, "smoothing": 0.0,
    "start": 0.0, "end": 1.0, "negative_rows": "same mask", "use_class_word": True,
    "class_word": "",
}  # fmt: skip
SAMPLING = {
    "positive": "a photo of a <my-cat> cat", "negative": "", "seed": 1, "steps": 2, "cfg": 3.0,
    "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0,
}  # fmt: skip


@pytest.fixture(autouse=True)
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, executor: Executor) -> Path:
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


def image(count: int = 2) -> torch.Tensor:
    return torch.rand(count, SIDE, SIDE, 3, generator=torch.Generator().manual_seed(0))


IMAGES, EMPTY = image(), {"samples": torch.zeros(1, 4, 8, 10)}


def values_of(models: Graph) -> dict[str, Any]:
    return {"model": models.model, "clip": models.clip, "vae": models.vae}


def train(executor: Executor, models: Graph, **inputs: Any) -> Result:
    teaching = {**TEACHING, **inputs}
    graph = {
        "1": node("TrainPersonalizedResiduals", **MODEL_LINKS, images=given("images"), **teaching)
    }
    outputs = ["concept", "model", "clip", "samples", "timeline", "attention", "plot", "map"]
    wanted = {name: ["1", i] for i, name in enumerate([*outputs, "told"])}
    return executor.run(graph, {**values_of(models), "images": IMAGES}, **wanted)


def text_node(text: str) -> dict[str, Any]:
    return {"class_type": "CLIPTextEncode", "inputs": {"clip": ["2", 1], "text": text}}


@pytest.fixture(scope="module")
def concept(executor: Executor, tmp_path_factory: pytest.TempPathFactory) -> Any:
    from tiny_models import graph_of

    before = folder_paths.output_directory
    folder_paths.output_directory = str(tmp_path_factory.mktemp("learned"))
    try:
        result = train(executor, graph_of("sd1"))
    finally:
        folder_paths.output_directory = before
    assert result.error == ""
    return result.values["concept"]


def test_training_gives_a_concept_models_pictures_and_a_report(
    executor: Executor, sd1: Graph, folders: Path
):
    before = state_of(sd1.model), state_of(sd1.clip.patcher)
    result = train(executor, sd1, captions="a {} asleep\none <my-cat> cat", preview_every=2)
    assert result.error == ""
    values = result.values
    assert values["concept"].names == ["my-cat"]
    assert len(values["concept"].weights) == 16
    assert values["samples"].shape == (1, SIDE, SIDE, 3)
    assert all(values[name].ndim == 4 for name in ("timeline", "attention", "plot"))
    assert len(values["map"]["loss"]) == 2
    saved = next(line for line in values["told"].splitlines() if line.startswith("Saved: "))
    assert Path(saved.removeprefix("Saved: ")).is_file()
    assert_same_state(sd1.model, before[0])
    assert_same_state(sd1.clip.patcher, before[1])


def test_the_lag_sampler_is_apply_lag_and_a_ksampler(executor: Executor, sd1: Graph, concept: Any):
    models = {name: given(name) for name in ("model", "clip")}
    graph = {
        "1": node(
            "LagSampler", **models, concepts__concept0=given("concept"),
            latent_image=given("empty"), **SAMPLING, **LAG,
        ),
        "2": node("ApplyLag", **models, concept=given("concept"), **LAG),
        "3": text_node(SAMPLING["positive"]),
        "4": text_node(""),
        "5": {
            "class_type": "KSampler",
            "inputs": {
                "model": ["2", 0], "positive": ["3", 0], "negative": ["4", 0],
                "latent_image": given("empty"), "seed": 1, "steps": 2, "cfg": 3.0,
                "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0,
            },
        },
    }  # fmt: skip
    values = {**values_of(sd1), "concept": concept, "empty": EMPTY}
    result = executor.run(
        graph, values, one=["1", 0], masks=["1", 1], blocks=["1", 2], two=["5", 0]
    )
    assert result.error == ""
    found = result.values
    assert torch.equal(found["one"]["samples"], found["two"]["samples"])
    assert found["masks"].shape == (1, 8, 10)
    assert float(found["masks"].mean()) == pytest.approx(0.5, abs=0.02)
    assert found["blocks"].ndim == 4


def test_the_lag_sampler_shows_its_masks_while_it_draws(
    executor: Executor, sd1: Graph, concept: Any, monkeypatch: pytest.MonkeyPatch
):
    shown: list[Any] = []
    monkeypatch.setattr(
        comfy.utils,
        "PROGRESS_BAR_HOOK",
        lambda value, total, preview, **more: shown.append(preview),
    )

    def previews(**lag: Any) -> list[torch.Tensor]:
        shown.clear()
        links = {"model": given("model"), "clip": given("clip"), "latent_image": given("empty")}
        inputs = {**links, **SAMPLING, "steps": 3, **LAG, **lag}
        graph = {"1": node("LagSampler", concepts__concept0=given("concept"), **inputs)}
        values = {**values_of(sd1), "concept": concept, "empty": EMPTY}
        assert executor.run(graph, values, out=["1", 0]).error == ""
        pictures = [preview[1] for preview in shown if preview is not None]
        return [torch.from_numpy(np.array(picture)).float() / 255 for picture in pictures]

    masked, whole = previews(), previews(quantile=0.0)
    assert len(masked) == len(whole) == 3, "one a step"
    assert all(min(picture.shape[:2]) >= 200 for picture in masked), "large enough to see"
    for one, other in zip(masked, whole, strict=True):
        assert one.mean() < other.mean(), "dark where the concept is not"


def test_lag_maps_show_a_picture(executor: Executor, sd1: Graph, concept: Any):
    graph = {
        "1": node(
            "LagMaps", **MODEL_LINKS, image=given("images"), concepts__concept0=given("concept"),
            prompt=SAMPLING["positive"], timestep=400, **LAG,
        )
    }  # fmt: skip
    values = {**values_of(sd1), "concept": concept, "images": IMAGES}
    result = executor.run(graph, values, overlay=["1", 0], blocks=["1", 1], masks=["1", 2])
    assert result.error == ""
    assert result.values["masks"].shape == (1, SIDE, SIDE)
    assert result.values["overlay"].shape == (1, SIDE, SIDE, 3)


WRONG = {
    "a prompt without the name": ({"positive": "a cat"}, "No prompt contains <my-cat>"),
    "a share out of range": ({"quantile": 2.0}, "quantile"),
    "an end before the start": ({"start": 0.8, "end": 0.2}, "start is 0.8"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_lag_cannot_do_is_said(executor: Executor, sd1: Graph, concept: Any, case: str):
    inputs, message = WRONG[case]
    graph = {
        "1": node(
            "LagSampler", model=given("model"), clip=given("clip"),
            concepts__concept0=given("concept"), latent_image=given("empty"),
            **{**SAMPLING, **LAG, **inputs},
        )
    }  # fmt: skip
    values = {**values_of(sd1), "concept": concept, "empty": EMPTY}
    assert message in executor.run(graph, values, out=["1", 0]).error


TAUGHT = {
    "a caption too few": ({"captions": "only {}"}, "1 captions came for 2 pictures"),
    "a caption without the name": ({"captions": "{}\na cat"}, "'a cat' does not contain <my-cat>"),
    "a name with a space": ({"handle": "my cat"}, "cannot be a handle"),
    "a prompt without a place": ({"prompt": "a photo"}, "with {} where the concept stands"),
}


@pytest.mark.parametrize("case", TAUGHT)
def test_what_cannot_be_learned_is_said(executor: Executor, sd1: Graph, case: str):
    inputs, message = TAUGHT[case]
    assert message in train(executor, sd1, **inputs).error


@torch.inference_mode(False)
def test_a_concept_of_either_host_draws_the_same_in_the_other(tmp_path: Path):
    """TinyWorld in diffusers and in ComfyUI: learned in one, drawn with LAG in both."""
    diffusers = pytest.importorskip("conceptloom.host.diffusers")
    pytest.importorskip("diffusers")
    from conceptloom.concepts.concept_file import load_concept, save_concept
    from conceptloom.host.comfyui.host import ComfyHost
    from conceptloom.host.comfyui.tinyworld import load_tinyworld
    from conceptloom.methods.personalized_residuals import (
        Localised,
        PersonalizedResidualsConfig,
        learn_residuals,
        sample_lag,
    )
    from conceptloom.samplers.ddim import seeded_noise
    from conceptloom.training.previews import PreviewConfig

    with torch.inference_mode():
        ours = ComfyHost(*load_tinyworld())
    plain = diffusers.DiffusersHost.tinyworld()
    pictures = [torch.rand(64, 64, 3, generator=torch.Generator().manual_seed(1))]
    config = PersonalizedResidualsConfig(steps=2, batch_size=1, learning_rate=0.02)
    shown = PreviewConfig(steps=1, cfg=1.0)
    for host in (ours, plain):
        learned = learn_residuals(host, pictures, "my-cat", "cat", config, previews=shown)
        path = save_concept(learned.concept, tmp_path / f"{type(host).__name__}.safetensors")
        loaded = Localised(concept=load_concept(path))
        noise = seeded_noise(plain, 3, 1, (64, 64))
        text = ["a photo of a <my-cat> cat"]
        drawn = [
            sample_lag(h, [loaded], text, noise, steps=3, cfg=3.0).cpu() for h in (ours, plain)
        ]
        # a position at the very median may fall on either side by rounding
        assert (drawn[0] - drawn[1]).abs().mean() < 1e-3
