"""The declaration of Personalized Residuals: presets and entry point."""

from __future__ import annotations

from ...tinyworld.presets import CFG, SIZE
from ...training.method_spec import TINYWORLD, MethodPreset, MethodSpec, Takes
from ...training.previews import PreviewConfig
from .config import PersonalizedResidualsConfig
from .learn import learn_residuals

# TinyWorld is a thousandth of Stable Diffusion and its layers are narrow: more rank and larger
# steps, and a name that learns, for its rare words mean something, which pulls the colours along.
ON_TINYWORLD = PersonalizedResidualsConfig(
    steps=300,
    learning_rate=5e-3,
    ratio=0.5,
    rare_token="object",
    train_handle=True,
    handle_rate=1e-2,
    resolution_px=SIZE,
)

SPEC = MethodSpec(
    name="personalized_residuals",
    title="Personalized Residuals",
    summary="learns one object from a few pictures, for LAG sampling",
    takes=Takes.PICTURES,
    learn=learn_residuals,
    presets=(
        MethodPreset(config=PersonalizedResidualsConfig()),
        MethodPreset(family=TINYWORLD, config=ON_TINYWORLD, previews=PreviewConfig(cfg=CFG)),
    ),
)
