"""What the tests of CLiC learn from: pictures with a marked region, and short recipes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from conceptloom.methods.clic import CLiC, CLiCConfig
from conceptloom.scenes.scene import ConceptScene, make_scene
from conceptloom.training.adapters import Scope
from conceptloom.training.loop import step_generator
from conceptloom.training.phases import TokenPhase, WeightPhase
from conceptloom.training.previews import PreviewConfig

SIDE = 32  # px; 16 latents
STILL: dict[str, Any] = {"brightness": 0.0, "flip": 0.0}  # the picture as it is
QUICK: dict[str, Any] = {"previews": PreviewConfig(steps=1, cfg=1.0)}


def plane(top: int, bottom: int, left: int, right: int) -> Tensor:
    mask = torch.zeros(SIDE, SIDE)
    mask[top:bottom, left:right] = 1
    return mask


def scene(pictures: int = 1) -> ConceptScene:
    generator = torch.Generator().manual_seed(0)
    return make_scene(
        [torch.rand(SIDE, SIDE, 3, generator=generator) for _ in range(pictures)],
        {"mark": [plane(4, 20, 4, 16)] * pictures},
        {"mark": "swirl"},
    )


def config(tokens: int = 0, weights: int = 1, **more: Any) -> CLiCConfig:
    phase: dict[str, Any] = {"scope": Scope.CROSS_ATTENTION}
    phase |= {name: more.pop(name) for name in ("scope", "rank") if name in more}
    given: dict[str, Any] = {"views": 2, "object_word": "chair"} | more
    return CLiCConfig(
        token_phase=TokenPhase(steps=tokens, learning_rate=1e-2),
        weight_phase=WeightPhase(steps=weights, learning_rate=1e-3, **phase),
        **given,
    )


def terms_of(learner: CLiC, seed: int = 0) -> dict[str, float]:
    phase = learner.phases()[1]
    with learner.computing(phase), torch.no_grad():
        losses = learner.losses(phase, step_generator(seed, 0))
    return {name: float(term) for name, term in losses.items()}
