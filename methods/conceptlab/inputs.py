"""Converts user inputs of ConceptLab for its configs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from math import isfinite
from typing import Any, TypeVar

from ...errors import ConfigError
from .config import LabConfig

Config = TypeVar("Config", bound=LabConfig)


@dataclass(frozen=True, slots=True)
class SpaceDefaults:
    """Defaults of a concept space in which the official values do not apply.

    Attributes:
        clamps: ceiling of positives and floor of negatives; None keeps the official ones. A mix has
            no ceiling: words beyond it would stop pulling, whatever their weights.
        sentences, gallery: templates in known words; () keeps the official ones.
    """

    clamps: tuple[float, float] | None = None
    sentences: tuple[str, ...] = ()
    gallery: tuple[str, ...] = ()

    def fitted(self, config: Config) -> Config:
        """The config for this space; values changed by the user stay."""
        changes: dict[str, Any] = {
            "templates": config.templates or self.sentences,
            "gallery": config.gallery or self.gallery,
        }
        is_mix = len(getattr(config, "positives", ())) > 1
        official = {one.name: one.default for one in fields(config)}
        if self.clamps is not None:
            ceiling, floor = self.clamps
            own = {"positive_ceiling": 1.0 if is_mix else ceiling, "negative_floor": floor}
            for name, value in own.items():
                if name in official and getattr(config, name) == official[name]:
                    changes[name] = value
        return replace(config, **changes)


def weighted_words(entries: Iterable[str]) -> tuple[tuple[str, ...], tuple[float, ...]]:
    """Words and weights of entries such as `lobster: 2`; without a number the weight is 1.

    Raises:
        ConfigError: there is no word, or the text after a colon is not a number.
    """
    weights: dict[str, float] = {}
    for entry in entries:
        word, _, weight = map(str.strip, entry.partition(":"))
        if not word:
            raise ConfigError("words", entry, "WORD or WORD: NUMBER, such as lobster: 2")
        weights[word] = parsed_number("words", weight) if weight else 1.0
    if not weights:
        raise ConfigError("words", "empty", "one word or more, such as lobster or lobster: 2")
    return tuple(weights), tuple(weights.values())


def parsed_number(name: str, text: str) -> float:
    """A finite number that a user typed.

    Raises:
        ConfigError: it is none.
    """
    try:
        if isfinite(number := float(text)):
            return number
    except ValueError:
        pass
    raise ConfigError(name, text, "a number, such as 0.5")
