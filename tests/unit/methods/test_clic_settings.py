"""Every setting of CLiC arrives; bad ones are told."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from conceptloom.errors import ConfigError, ModelError
from conceptloom.host.diffusers import DiffusersHost
from conceptloom.methods.clic import CLiC, CLiCConfig, Form
from conceptloom.methods.clic.config import TwoStageConfig
from conceptloom.training.adapters import Scope
from conceptloom.training.loop import LoopConfig, run
from conceptloom.training.phases import TokenPhase, WeightPhase

from ..tiny_models import tiny_host
from .clic_cases import config, scene

CHANGED: dict[str, Any] = {
    "token_phase": TokenPhase(steps=1, learning_rate=1e-2),
    "weight_phase": WeightPhase(steps=1, learning_rate=2e-3, scope=Scope.CROSS_ATTENTION),
    "context_weight": 2.0,
    "attention_weight": 1.0,
    "roi_weight": 1.0,
    "background_weight": 0.2,
    "context_form": Form.OFFICIAL,
    "roi_form": Form.OFFICIAL,
    "prompt": "{concept} on a {object}",
    "object_word": "bench",
    "roi_prompts": ("{concept}",),
    "attention_level": 4,
    "detach_start": False,
    "brightness": 0.1,
    "flip": 0.0,
    "random_scale": True,
    "views": 1,
    "batch_size": 2,
    "accumulation": 2,
    "resolution_px": 24,
    "seed": 1,
}


def test_every_setting_is_tried_below() -> None:
    names = {field.name for field in fields(CLiCConfig)}
    assert names == {*CHANGED, "checkpointing"}  # that one changes no number


def learned_with(**changes: Any) -> list[Tensor]:
    settings = replace(config(flip=1.0), **changes)  # no mirror may hang on the draw
    learner = CLiC(tiny_host(), scene(), settings)
    run(learner, LoopConfig(accumulation=settings.accumulation))
    return [p.detach().clone() for p in learner.named_parameters().values()]


@pytest.fixture(scope="module")
def usual() -> list[Tensor]:
    return learned_with()


@pytest.mark.parametrize("name", list(CHANGED))
def test_every_setting_changes_what_is_learned(name: str, usual: list[Tensor]) -> None:
    changed = learned_with(**{name: CHANGED[name]})
    assert len(changed) == len(usual)
    assert not all(torch.equal(a, b) for a, b in zip(usual, changed, strict=True))


BAD_SETTINGS: list[tuple[str, Any, str]] = [
    ("context_weight", -1.0, "context_weight is -1.0; .*between 0 and 10"),
    ("roi_weight", float("nan"), "roi_weight is nan"),
    ("background_weight", 1.2, "background_weight is 1.2; .*between 0 and 1"),
    ("brightness", -0.1, "brightness is -0.1"),
    ("views", 0, "views is 0; .*whole number between 1 and 256"),
    ("attention_level", 3, "attention_level is 3; .*1, 2, 4 or 8"),
    ("prompt", "a chair", "prompt is .* contains {concept}"),
    ("roi_prompts", (), "roi_prompts is .* contains {concept}"),
    ("object_word", " ", "object_word is ''; .* like chair"),
    ("weight_phase", WeightPhase(steps=0), "token_steps . weight_steps is 0; .*1 or more"),
]


@pytest.mark.parametrize(("name", "value", "told"), BAD_SETTINGS)
def test_bad_settings_are_reported(name: str, value: Any, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        replace(CLiCConfig(), **{name: value})


def test_a_recipe_without_a_loss_is_reported() -> None:
    with pytest.raises(ConfigError, match="context_weight is 0"):
        CLiCConfig(context_weight=0.0, attention_weight=0.0, roi_weight=0.0)


def test_a_model_without_attention_in_its_up_blocks_is_reported(
    host: DiffusersHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    from conceptloom.host.ports import UNetSites

    monkeypatch.setattr(host, "sites", UNetSites((), ()))
    with pytest.raises(ModelError, match="no cross-attention in its up blocks"):
        CLiC(host, scene(), config())


def test_more_base_steps_than_steps_are_refused() -> None:
    with pytest.raises(ConfigError, match="base_steps is 9; it must be at most the 5 steps"):
        TwoStageConfig(base_steps=9, steps=5)
