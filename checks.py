"""Checks of settings, each with a message that says what is allowed."""

from __future__ import annotations

import math

from .errors import ConfigError


def require_positive(name: str, value: float, *, zero: bool = False) -> None:
    """A finite number above zero (or zero itself where that is allowed)."""
    if not math.isfinite(value) or value < 0 or (value == 0 and not zero):
        raise ConfigError(name, value, "a finite number, 0 or more" if zero else "above 0")


def require_fraction(name: str, value: float) -> None:
    """A number from 0 to 1."""
    if not 0 <= value <= 1:
        raise ConfigError(name, value, "between 0 and 1")


def require_whole(name: str, value: int, *, least: int) -> None:
    """A whole number that is not too small."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ConfigError(name, value, f"a whole number, {least} or more")
