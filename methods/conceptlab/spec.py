"""The declaration of ConceptLab: presets and entry point."""

from __future__ import annotations

from ...tinyworld.presets import PRIOR_RATE
from ...training.method_spec import TINYWORLD, MethodPreset, MethodSpec, Takes
from .config import OFFICIAL_LOOP, ConceptLabConfig, EvolutionConfig, NegativesConfig
from .learn import evolve, invent

LOOK_EVERY = 50  # steps; TinyWorld's runs are short

SPEC = MethodSpec(
    name="conceptlab",
    title="ConceptLab",
    summary="invents a member of a category, or mixes several",
    takes=Takes.PRIOR,
    learn=invent,
    presets=(
        MethodPreset(config=ConceptLabConfig(), loop=OFFICIAL_LOOP),
        MethodPreset(
            family=TINYWORLD,
            config=ConceptLabConfig(
                steps=300,
                learning_rate=PRIOR_RATE,
                negatives=NegativesConfig(every=LOOK_EVERY),
            ),
            loop=OFFICIAL_LOOP,
        ),
    ),
)

EVOLUTION = MethodSpec(
    name="conceptlab",
    title="ConceptLab evolution",
    summary="breeds a child of several parents",
    takes=Takes.PRIOR,
    learn=evolve,
    presets=(
        MethodPreset(config=EvolutionConfig(), loop=OFFICIAL_LOOP),
        MethodPreset(
            family=TINYWORLD,
            config=EvolutionConfig(steps=200, learning_rate=PRIOR_RATE, gallery_every=LOOK_EVERY),
            loop=OFFICIAL_LOOP,
        ),
    ),
)
