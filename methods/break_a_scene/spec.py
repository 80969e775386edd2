"""The declaration of Break-A-Scene: presets and entry point."""

from __future__ import annotations

from typing import Any

from ...tinyworld.presets import CFG, HANDLE_RATE, RATE_OF_SCOPE, SIZE
from ...training.adapters import Scope
from ...training.method_spec import TINYWORLD, MethodPreset, MethodSpec, Takes
from ...training.phases import TokenPhase, WeightPhase
from ...training.previews import PreviewConfig
from .config import BreakASceneConfig, ClassImages
from .learn import learn_scene


def _scoped(scope: Scope, **more: Any) -> BreakASceneConfig:
    return BreakASceneConfig(weight_phase=WeightPhase(scope=scope), **more)


# Masks hide the rest of a picture, so in so few steps nothing says that an object stands in one
# place only: mirrored copies would be drawn beside it, and with weak attention the other object.
ON_TINYWORLD = BreakASceneConfig(
    token_phase=TokenPhase(steps=150, learning_rate=HANDLE_RATE),
    weight_phase=WeightPhase(
        steps=220, learning_rate=RATE_OF_SCOPE[Scope.LOW_RANK], scope=Scope.LOW_RANK, rank=16
    ),
    attention_weight=0.3,
    flip=0.0,
    prior_weight=0.3,  # without it every drawing has the places of the scene
    class_images=ClassImages(draw=16, prompt="a photo of an object", steps=20, cfg=CFG),
    batch_size=4,
    resolution_px=SIZE,
)

SPEC = MethodSpec(
    name="break_a_scene",
    title="Break-A-Scene",
    summary="learns objects",
    takes=Takes.SCENE,
    takes_class_images=True,
    learn=learn_scene,
    presets=(
        MethodPreset(
            title="Break-A-Scene",
            option="break-a-scene",
            # a weight, its gradient and AdamW's two averages, 4 bytes each, times 0.98 G weights
            summary="the paper's recipe: trains the names, then every weight of the model, 16 "
            "bytes for each: 16 GB for SD 1.5 before activations",
            config=BreakASceneConfig(),
        ),
        MethodPreset(
            title="Break-A-Scene K/V",
            summary="trains the names, then only keys and values of cross-attention: much less "
            "memory",
            config=_scoped(Scope.CROSS_ATTENTION_KV),
        ),
        MethodPreset(
            title="Break-A-Scene low-rank",
            summary="trains the names, then low-rank changes of all linear layers: least memory "
            "and small files",
            config=_scoped(Scope.LOW_RANK, checkpointing=True),
        ),
        MethodPreset(
            title="handles only",
            summary="trains the names only, without changing the model: smallest files, least "
            "likeness",
            config=BreakASceneConfig(
                weight_phase=WeightPhase(scope=Scope.HANDLES, steps=0),
                prior_weight=0.0,
                class_images=ClassImages(draw=0),
            ),
        ),
        MethodPreset(
            title="TinyWorld quick",
            option="break-a-scene",
            family=TINYWORLD,
            summary="low-rank with the higher learning rates that the bundled TinyWorld model "
            "needs: minutes on a laptop's CPU",
            config=ON_TINYWORLD,
            previews=PreviewConfig(cfg=CFG),
            rates=RATE_OF_SCOPE,
        ),
    ),
)
