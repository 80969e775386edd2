"""Every setting of Break-A-Scene arrives; bad ones, and class images that do not fit, are told."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from conceptloom.errors import ConfigError, ImageError
from conceptloom.host.diffusers import DiffusersHost
from conceptloom.methods.break_a_scene import (
    BreakAScene,
    BreakASceneConfig,
    ClassImages,
    TokenPhase,
    WeightPhase,
    learn_scene,
)
from conceptloom.methods.break_a_scene import learn as learn_module
from conceptloom.samplers.class_images import class_latents_of
from conceptloom.training import runner
from conceptloom.training.adapters import Scope
from conceptloom.training.loop import LoopConfig

from ..tiny_models import assert_unchanged, snapshot, tiny_host
from .break_a_scene_cases import QUICK, SIDE, Cancelled, Reports, config, scene

pytestmark = pytest.mark.usefixtures("quick_disk")

CHANGED: dict[str, Any] = {
    "token_phase": TokenPhase(steps=2, learning_rate=1e-2),
    "weight_phase": WeightPhase(steps=1, learning_rate=2e-3, scope=Scope.CROSS_ATTENTION_KV),
    "attention_weight": 1.0,
    "attention_level": 1,
    "prior_weight": 3.0,
    "class_images": ClassImages(draw=2, steps=1, prompt="a forest of tall trees"),
    "masked_loss": False,
    "union_sampling": False,
    "prompt_prefix": "a drawing of ",
    "flip": 0.0,
    "batch_size": 2,
    "accumulation": 2,
    "resolution_px": 24,
    "seed": 1,
}


def test_every_setting_is_tried_below() -> None:
    names = {field.name for field in fields(BreakASceneConfig)}
    assert names == {*CHANGED, "checkpointing"}  # that one changes no number


def learned_with(**changes: Any) -> list[Tensor]:
    settings = replace(config(1, 1, flip=1.0), **changes)  # no mirror may hang on the draw
    concept = learn_scene(tiny_host(), scene(), settings, **QUICK).concept
    weights = [change.tensor for change in concept.weights.values()]  # type: ignore[union-attr]
    return [*(rows["clip_l"] for rows in concept.handles.values()), *weights]


@pytest.fixture(scope="module")
def usual() -> list[Tensor]:
    return learned_with()


@pytest.mark.parametrize("name", list(CHANGED))
def test_every_setting_changes_what_is_learned(name: str, usual: list[Tensor]) -> None:
    changed = learned_with(**{name: CHANGED[name]})
    assert len(changed) == len(usual)
    assert not all(torch.equal(a, b) for a, b in zip(usual, changed, strict=True))


def test_every_setting_has_its_own_states(
    host: DiffusersHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "model_digest", lambda host: "the same")

    def folder(settings: BreakASceneConfig, loop: LoopConfig, given: Tensor | None = None) -> Path:
        learner = BreakAScene(host, scene(), settings)
        kept = learn_module._state_folder(tmp_path, learner, loop, given)
        assert kept is not None
        return kept.folder

    base, loop = config(), LoopConfig()
    found = [folder(base, loop)]
    found += [folder(replace(base, **{n: v}), loop) for n, v in CHANGED.items()]
    drawn: list[dict[str, Any]] = [{"draw": 3}, {"steps": 7}, {"cfg": 2.0}]
    images = [replace(base.class_images, **change) for change in drawn]
    found += [folder(replace(base, class_images=one), loop) for one in images]
    found += [folder(base, loop, torch.rand(1, 32, 32, 3))]
    found += [folder(base, replace(loop, max_grad_norm=0.5))]
    assert len(set(found)) == len(found)
    # how often somebody looks changes nothing
    assert folder(base, replace(loop, save_every=7, preview_every=3)) == found[0]


BAD_SETTINGS = [
    (TokenPhase, "steps", -1, "token_steps is -1; .*whole number between 0 and 100000"),
    (TokenPhase, "steps", 1.5, "token_steps is 1.5"),
    (TokenPhase, "learning_rate", -1e-3, "token_rate is -0.001; .*between 1e-07 and 1"),
    (TokenPhase, "learning_rate", float("nan"), "token_rate is nan"),
    (WeightPhase, "learning_rate", float("inf"), "weight_rate is inf"),
    (WeightPhase, "learning_rate", 0, "weight_rate is 0"),
    (WeightPhase, "rank", 0, "rank is 0; .*between 1 and 512"),
    (BreakASceneConfig, "attention_weight", -0.1, "attention_weight is -0.1; .*between 0 and 10"),
    (BreakASceneConfig, "prior_weight", float("nan"), "prior_weight is nan"),
    (BreakASceneConfig, "attention_level", 3, "attention_level is 3; .*0, 1, 2, 4 or 8"),
    (BreakASceneConfig, "flip", 1.5, "flip is 1.5; .*between 0 and 1"),
    (BreakASceneConfig, "flip", float("nan"), "flip is nan"),
    (BreakASceneConfig, "batch_size", 0, "batch_size is 0"),
    (BreakASceneConfig, "accumulation", True, "accumulation is True"),
    (BreakASceneConfig, "resolution_px", -8, r"resolution_px \(resolution\) is -8"),
]


@pytest.mark.parametrize(("kind", "name", "value", "told"), BAD_SETTINGS)
def test_bad_settings_are_reported(kind: Any, name: str, value: Any, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        kind(**{name: value})


def test_a_recipe_of_no_steps_is_reported() -> None:
    with pytest.raises(
        ConfigError,
        match=r"token_steps \+ weight_steps is 0; .*1 or more",
    ):
        config(0, 0)


def test_a_level_that_the_model_lacks_is_reported(host: DiffusersHost) -> None:
    with pytest.raises(ConfigError, match=r"attention_level is 8; .*one of 1, 2 for this model"):
        BreakAScene(host, scene(), config(attention_level=8))


def test_class_images_of_another_size_are_reported(host: DiffusersHost) -> None:
    given = torch.rand(1, 16, 16, 3)
    before = snapshot(host)
    with pytest.raises(ImageError, match="are 16x16 px but the scene trains at 32x32 px"):
        learn_scene(host, scene(), config(), class_images=given)
    assert_unchanged(before, host)


def test_class_images_that_are_given_are_used(host: DiffusersHost) -> None:
    given = torch.rand(1, SIDE, SIDE, 3)
    learner = BreakAScene(host, scene(), config())
    found = learn_module._class_latents(learner, given, None, lambda *_: None)
    assert found is not None
    assert torch.equal(found, host.encode_image(given))
    without = BreakAScene(host, scene(), config(class_images=ClassImages(draw=0)))
    assert learn_module._class_latents(without, None, None, lambda *_: None) is None


def test_class_images_that_nothing_needs_are_reported(
    host: DiffusersHost, caplog: pytest.LogCaptureFixture
) -> None:
    given = torch.rand(1, SIDE, SIDE, 3)
    for settings in (config(1, 1, prior_weight=0.0), config(1, 0)):
        learner = BreakAScene(host, scene(), settings)
        assert learn_module._class_latents(learner, given, None, lambda *_: None) is None
    assert caplog.text.count("Training ignores the class images") == 2


def test_class_images_are_drawn_once_for_a_run(
    host: DiffusersHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draws: list[Tensor] = []

    def drawn(*args: Any, **more: Any) -> Tensor:
        draws.append(class_latents_of(*args, **more))
        return draws[-1]

    monkeypatch.setattr(learn_module, "class_latents_of", drawn)
    with pytest.raises(Cancelled):
        learn_scene(host, scene(), config(1, 1), **QUICK, folder=tmp_path, progress=Reports(4))
    learn_scene(host, scene(), config(1, 1), **QUICK, folder=tmp_path)
    assert len(draws) == 1
    (kept,) = tmp_path.rglob("class-latents.safetensors")
    kept.write_bytes(b"not a file")  # damaged: made again
    learn_scene(host, scene(), config(1, 1), **QUICK, folder=tmp_path)
    assert torch.equal(draws[0], draws[1])
