"""Detects divergence of a loss, and estimates the remaining time."""

from __future__ import annotations

import math
from collections.abc import Iterable

SMOOTHING = 0.95  # weight of the past in the moving average, about 20 steps
SETTLED = 40  # steps after which averages mean something
EXPLOSION = 5.0  # moving average over the mean of the whole run; noise alone stays below 3
SOUND = 2.0  # up to here nothing was wrong yet


class DivergenceDetector:
    """Moving average of a loss, and detection of divergence.

    Each phase needs its own detector, because the usual loss changes with the trained parameters.

    Args:
        history: losses of the phase so far.
        before: steps that were taken before the phase.
        is_bounded: the loss is bounded and cannot explode.

    Attributes:
        good_until: total number of steps at the last usual average.
    """

    def __init__(
        self, history: Iterable[float] = (), before: int = 0, *, is_bounded: bool = False
    ) -> None:
        self._is_bounded = is_bounded
        self._average, self._sum, self._seen, self._before = 0.0, 0.0, 0, before
        self.good_until = before
        for value in history:
            self.add(value)

    @property
    def smooth(self) -> float:
        """Bias-corrected moving average; NaN before the first step."""
        if not self._seen:
            return math.nan
        return self._average / (1 - SMOOTHING**self._seen)

    @property
    def usual(self) -> float:
        """Mean over the whole run; NaN before the first step."""
        return self._sum / self._seen if self._seen else math.nan

    @property
    def has_diverged(self) -> bool:
        if self._is_bounded:
            return False
        return self._seen >= SETTLED and self.smooth > EXPLOSION * self.usual

    @property
    def is_sound(self) -> bool:
        """Whether the average is currently usual."""
        return self.good_until == self._before + self._seen

    def add(self, value: float) -> None:
        """Add the loss of a finished step."""
        self._average = SMOOTHING * self._average + (1 - SMOOTHING) * value
        self._sum += value
        self._seen += 1
        if self._is_bounded or self.smooth <= SOUND * self.usual:
            self.good_until = self._before + self._seen

    def trouble(self, value: float) -> str | None:
        """The problem of a loss before its step; None if it is sound."""
        if math.isnan(value):
            return "the loss is not a number"
        if math.isinf(value):
            return "the loss is infinite"
        if self.has_diverged:
            return (
                f"the loss diverged, its average is {self.smooth:.3g} instead of {self.usual:.3g}"
            )
        return None


def remaining(seconds: float, done: int, left: int) -> str:
    """Time left at the speed so far, as "3 min 20 s"."""
    if done == 0:
        return "?"
    rest = round(seconds / done * left)
    if rest < 60:
        return f"{rest} s"
    if rest < 3600:
        return f"{rest // 60} min {rest % 60} s"
    return f"{rest // 3600} h {rest % 3600 // 60} min"
