"""The declaration of CLiC: presets and entry point."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ...tinyworld.presets import CFG, FULL_RATE, HANDLE_RATE, RATE_OF_SCOPE, SIZE
from ...training.adapters import Scope
from ...training.method_spec import TINYWORLD, MethodPreset, MethodSpec, Takes
from ...training.phases import RATE_OF_SCOPE as USUAL_RATES
from ...training.phases import TokenPhase, WeightPhase
from ...training.previews import PreviewConfig
from .config import OFFICIAL, OFFICIAL_LOOP, PAPER_LOOP, CLiCConfig, as_custom_diffusion
from .learn import learn_detail


def _scoped(scope: Scope, **more: Any) -> CLiCConfig:
    phase = WeightPhase(steps=500, scope=scope, learning_rate=USUAL_RATES[scope])
    return CLiCConfig(weight_phase=phase, **more)


def on_tinyworld(config: CLiCConfig) -> CLiCConfig:
    """A recipe with the larger steps that TinyWorld wants.

    Every weight learns: in so few steps the small cross-attention alone gets an ornament's colours
    and not its pattern.
    """
    return replace(
        config,
        token_phase=TokenPhase(steps=40, learning_rate=HANDLE_RATE),
        weight_phase=WeightPhase(steps=300, learning_rate=FULL_RATE, scope=Scope.FULL),
        # Colours tell ornaments apart, and these are words that the model was trained on.
        brightness=0.1,
        views=4,
        prompt="a photo of a {object} and {concept}",
        roi_prompts=("a photo of {concept}",),
        resolution_px=SIZE,
    )


def _tiny(base: MethodPreset, **more: Any) -> MethodPreset:
    """The TinyWorld side of a preset; the trainer lists those that get a title."""
    own = {"title": "", "summary": "", **more}
    return replace(
        base, family=TINYWORLD, config=on_tinyworld(base.config), previews=PreviewConfig(cfg=CFG),
        rates=RATE_OF_SCOPE, **own,
    )  # fmt: skip


PAPER = MethodPreset(
    title="CLiC",
    option="clic",
    summary="the paper's recipe for a detail of an object in its context: trains one name and "
    "cross-attention, 44 million parameters of SD 1.5",
    config=CLiCConfig(),
    loop=PAPER_LOOP,
)
AUTHORS = MethodPreset(
    title="CLiC official",
    option="clic-official",
    summary="the same with the losses of the authors' code",
    config=OFFICIAL,
    loop=OFFICIAL_LOOP,
)
LOW_RANK = MethodPreset(
    title="CLiC low-rank",
    summary="the same with low-rank changes of all linear layers: for SDXL and small files",
    config=_scoped(Scope.LOW_RANK, checkpointing=True),
    loop=PAPER_LOOP,
)
PLAIN_LOSS = MethodPreset(
    title="Custom Diffusion",
    option="custom-diffusion",
    summary="the plain diffusion loss on whole pictures; trains keys and values of cross-attention",
    config=as_custom_diffusion(_scoped(Scope.CROSS_ATTENTION_KV)),
    loop=PAPER_LOOP,
)

SPEC = MethodSpec(
    name="clic",
    title="CLiC",
    summary="a detail of one",
    takes=Takes.SCENE,
    learn=learn_detail,
    presets=(
        PAPER,
        AUTHORS,
        LOW_RANK,
        PLAIN_LOSS,
        _tiny(
            PAPER,
            title="TinyWorld CLiC quick",
            summary="CLiC with the higher learning rates that the bundled TinyWorld model needs: "
            "minutes on a laptop's CPU",
        ),
        _tiny(AUTHORS),
        _tiny(PLAIN_LOSS),
    ),
)
