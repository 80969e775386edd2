"""Watching a loss: smooth it, see when it goes wrong, tell how long is left."""

from __future__ import annotations

import math
from collections.abc import Iterable

SMOOTHING = 0.95  # weight of the past in the moving average
SETTLED = 20  # steps after which the average means something
EXPLOSION = 10.0  # times the lowest average so far


class LossWatch:
    """Moving average of a loss, and whether the next value is one to stop at."""

    def __init__(self, history: Iterable[float] = ()) -> None:
        self._average, self._lowest, self._seen = 0.0, math.inf, 0
        for value in history:
            self.add(value)

    @property
    def smooth(self) -> float:
        """Bias-corrected moving average; NaN before the first step."""
        if not self._seen:
            return math.nan
        return self._average / (1 - SMOOTHING**self._seen)

    def add(self, value: float) -> None:
        """A step was taken with this loss."""
        self._average = SMOOTHING * self._average + (1 - SMOOTHING) * value
        self._seen += 1
        if self._seen >= SETTLED:
            self._lowest = min(self._lowest, self.smooth)

    def trouble(self, value: float) -> str | None:
        """What is wrong with a loss before its step is taken; None when it is sound."""
        if not math.isfinite(value):
            return "the loss is not a number" if math.isnan(value) else "the loss is infinite"
        if self._seen >= SETTLED and self.smooth > EXPLOSION * self._lowest:
            return (
                f"the loss exploded: its average is {self.smooth:.3g}, after having been "
                f"{self._lowest:.3g}"
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
