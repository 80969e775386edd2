"""From the widgets of the ConceptLab nodes to the settings of the method."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ..errors import ConfigError
from ..methods.conceptlab import (
    ConceptLabConfig,
    EvolutionConfig,
    Initialiser,
    Kind,
    NegativesConfig,
)
from ..training.recipe import LoopConfig
from ..vision.ports import PriorSampling
from .conceptlab_widgets import LAB_LOOP
from .prior_loading import LoadedPrior
from .shared import entries, lines_of, listed


def lab_config(
    prior: LoadedPrior,
    positives: tuple[str, ...],
    knobs: Mapping[str, Any],
    negatives: NegativesConfig,
) -> ConceptLabConfig:
    """The recipe that the widgets ask for; a space may want clamps of its own.

    Raises:
        ConfigError: a knob is out of its range.
    """
    official = ConceptLabConfig()
    clamps = {"positive_ceiling": prior.ceiling, "negative_floor": prior.floor}
    for knob, of_space in clamps.items():
        given = knobs.get(knob, getattr(official, knob))
        # Only a knob that nobody turned gives way.
        if of_space is None or given != getattr(official, knob):
            clamps[knob] = given
    return ConceptLabConfig(
        positives=positives,
        weights=knobs.get("weights", ()),
        negatives=negatives,
        kind=Kind(knobs.get("object_or_style", Kind.OBJECT.value)),
        positive_weight=knobs.get("positive_weight", official.positive_weight),
        positive_ceiling=float(clamps["positive_ceiling"] or 0.0),
        negative_floor=float(clamps["negative_floor"] or 0.0),
        initialiser_word=knobs["initialiser_word"],
        **common(prior, knobs),
    )


def negatives_of(knobs: Mapping[str, Any]) -> NegativesConfig:
    """How the list of negatives begins and grows."""
    return NegativesConfig(
        start=tuple(listed(knobs["negatives"])),
        locked=tuple(listed(knobs["locked"])),
        forbidden=tuple(listed(knobs["forbidden"])),
        every=knobs["look_every"],
        question=knobs["question"],
        gradual=knobs["gradual"],
        most=knobs["most_negatives"],
        keep_duplicates=knobs["keep_duplicates"],
        early_stop=knobs["early_stop"],
    )


def evolution_config(
    prior: LoadedPrior, first_word: str, weights: str, knobs: Mapping[str, Any]
) -> EvolutionConfig:
    """The recipe that the widgets of Evolve Concepts ask for."""
    shares = tuple(number("weights", entry) for entry in entries(weights))
    given, default = common(prior, knobs), EvolutionConfig()
    for name in ("templates", "gallery"):
        given[name] = given[name] or getattr(default, name)
    return EvolutionConfig(
        first_word=first_word, weights=shares, gallery_every=knobs["look_every"], **given
    )


def common(prior: LoadedPrior, knobs: Mapping[str, Any]) -> dict[str, Any]:
    """Settings that inventing, mixing and breeding have alike."""
    return {
        "steps": knobs["steps"],
        "learning_rate": knobs["learning_rate"],
        "seed": knobs["seed"],
        "gallery_seed": knobs["gallery_seed"],
        "initialiser": Initialiser(knobs["initialiser"]),
        "templates": lines_of(knobs["templates"]) or prior.sentences,
        "gallery": lines_of(knobs["gallery"]) or prior.gallery,
        "sampling": PriorSampling(
            steps=knobs["prior_steps"],
            guidance=knobs["prior_guidance"],
            checkpointing=knobs["checkpointing"],
        ),
    }


def loop_of(knobs: Mapping[str, Any]) -> LoopConfig:
    """The official AdamW, saved as often as asked."""
    return replace(LAB_LOOP, save_every=knobs["save_every"])


def weighted_words(words: str) -> tuple[tuple[str, ...], tuple[float, ...]]:
    """Lines such as `lobster: 2` as words and weights; without a number it is 1.

    Raises:
        ConfigError: no word, or what stands behind the colon is no number.
    """
    found: dict[str, float] = {}
    for line in lines_of(words):
        word, _, weight = line.partition(":")
        found[word.strip()] = number("words", weight.strip()) if weight.strip() else 1.0
    if not found:
        raise ConfigError("words", words, "one word per line, such as lobster, with : and a weight")
    return tuple(found), tuple(found.values())


def number(name: str, text: str) -> float:
    """A number that somebody typed.

    Raises:
        ConfigError: it is none.
    """
    try:
        if math.isfinite(found := float(text)):
            return found
    except ValueError:
        pass
    raise ConfigError(name, text, "a number, such as 0.5")
