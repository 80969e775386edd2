"""The declaration of Concept Weaver's bank: presets and entry point."""

from __future__ import annotations

from ...tinyworld.presets import CFG, HANDLE_RATE, RATE_OF_SCOPE, SIZE
from ...training.adapters import Scope
from ...training.method_spec import TINYWORLD, MethodPreset, MethodSpec, Takes
from ...training.phases import TokenPhase, WeightPhase
from ...training.previews import PreviewConfig
from .config import BankConfig
from .learn import learn_for_bank

ON_TINYWORLD = BankConfig(
    token_phase=TokenPhase(steps=60, learning_rate=HANDLE_RATE),
    weight_phase=WeightPhase(
        steps=240,
        learning_rate=RATE_OF_SCOPE[Scope.CROSS_ATTENTION_KV],
        scope=Scope.CROSS_ATTENTION_KV,
    ),
    smallest=0.7,  # a third of 128 px leaves little of an object to see
    prompt="a photo of a {handle} {word}",
    batch_size=4,
    resolution_px=SIZE,
)

SPEC = MethodSpec(
    name="concept_weaver",
    title="Concept Weaver",
    summary="concepts for `weave`, from pictures of one object each",
    takes=Takes.SCENE,
    learn=learn_for_bank,
    presets=(
        MethodPreset(
            title="Concept Weaver",
            option="concept-weaver",
            summary="concepts for Concept Weaver: trains one name each and keys and values of "
            "cross-attention, on pictures at random sizes",
            config=BankConfig(),
        ),
        MethodPreset(
            title="TinyWorld Concept Weaver quick",
            option="concept-weaver",
            family=TINYWORLD,
            summary="the same with the higher learning rates that the bundled TinyWorld model "
            "needs",
            config=ON_TINYWORLD,
            previews=PreviewConfig(cfg=CFG),
            rates=RATE_OF_SCOPE,
        ),
    ),
)
