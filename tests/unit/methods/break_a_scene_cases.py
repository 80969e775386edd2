"""What the tests of Break-A-Scene learn from: a scene of two concepts, and short recipes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from conceptloom.host.diffusers import DiffusersHost
from conceptloom.methods.break_a_scene import (
    BreakASceneConfig,
    ClassImages,
    TokenPhase,
    WeightPhase,
)
from conceptloom.scenes.scene import ConceptScene, make_scene
from conceptloom.training.adapters import Scope
from conceptloom.training.previews import PreviewConfig

from ..tiny_models import noise

SIDE = 32  # px; 16 latents
QUICK: dict[str, Any] = {
    "previews": PreviewConfig(steps=1, cfg=1.0),
}


def plane(top: int, bottom: int, left: int, right: int) -> Tensor:
    made = torch.zeros(SIDE, SIDE)
    made[top:bottom, left:right] = 1
    return made


def scene(pictures: int = 1) -> ConceptScene:
    generator = torch.Generator().manual_seed(0)
    return make_scene(
        [torch.rand(SIDE, SIDE, 3, generator=generator) for _ in range(pictures)],
        {
            "mug": [plane(4, 20, 4, 16)] * pictures,
            "cat": [plane(12, 28, 20, 28)] * pictures,
        },
        {"mug": "cup", "cat": ""},
    )


def config(tokens: int = 1, weights: int = 1, **more: Any) -> BreakASceneConfig:
    phase: dict[str, Any] = {"scope": Scope.CROSS_ATTENTION_KV}
    phase |= {name: more.pop(name) for name in ("scope", "rank") if name in more}
    quick = ClassImages(draw=2, steps=1)
    usual = {"resolution_px": 0, "attention_level": 2, "class_images": quick}
    given: dict[str, Any] = usual | more
    return BreakASceneConfig(
        token_phase=TokenPhase(steps=tokens, learning_rate=1e-2),
        weight_phase=WeightPhase(steps=weights, learning_rate=1e-3, **phase),
        **given,
    )


def latents(host: DiffusersHost, count: int = 3) -> Tensor:
    return noise(count, 4, SIDE // 2, SIDE // 2, seed=8)


class Cancelled(Exception):
    pass


class Reports:
    """Listens for a while, then cancels."""

    def __init__(self, patience: int) -> None:
        self.patience = patience
        self.heard: list[tuple[int, str]] = []

    def __call__(
        self, step: int, total: int, message: str = "", preview: Tensor | None = None
    ) -> None:
        self.heard.append((step, message.split(":")[0].split(" of ")[0]))
        if len(self.heard) > self.patience:
            raise Cancelled
