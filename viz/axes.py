"""Axes of a plot: range, tick positions and labels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

LOG_FROM = 30.0  # largest by smallest value from which a plain axis would flatten the small ones


@dataclass(frozen=True, slots=True)
class Axis:
    """A range of values, laid over 0..1."""

    low: float
    high: float
    ticks: tuple[float, ...]
    is_log: bool = False

    @classmethod
    def of_steps(cls, first: float, last: float) -> Axis:
        """Whole steps; a single one stands in the middle."""
        if first == last:
            return cls(first - 1, last + 1, (first,))
        ticks = nice_ticks(first, last, 6)
        return cls(first, last, tuple(t for t in ticks if t == round(t)))

    def place(self, value: float) -> float:
        """Position of a value, 0..1, clamped."""
        low, high = self.low, self.high
        if self.is_log:
            low, high, value = math.log(low), math.log(high), math.log(max(value, low))
        return min(1.0, max(0.0, (value - low) / (high - low)))


def fitting_axis(raw: Sequence[NDArray[np.float64]], smooth: Sequence[NDArray[np.float64]]) -> Axis:
    """The axis with all smoothed values and all raw ones except extreme outliers."""
    values = np.concatenate([v[np.isfinite(v)] for v in raw])
    if not len(values):
        return Axis(0.0, 1.0, (0.0, 0.5, 1.0))
    lines = np.concatenate([v[np.isfinite(v)] for v in smooth])
    high = max(float(np.quantile(values, 0.99)), float(lines.max()))
    positive = values[values > 0]
    if values.min() >= 0 and len(positive) > 7:
        low = min(float(np.quantile(positive, 0.02)), float(lines[lines > 0].min()))
        if high / low > LOG_FROM:
            return _log_axis(low, high)
    low = min(float(np.quantile(values, 0.01)), float(lines.min()))
    if low >= 0 and low < 0.5 * high:
        low = 0.0
    if high - low <= 1e-9 * max(abs(high), abs(low)):  # constant
        reach = abs(high) / 2 or 1.0
        low, high = low - reach, high + reach
    ticks = nice_ticks(low, high, 5)
    step = ticks[1] - ticks[0]
    low, high = math.floor(low / step + 1e-9) * step, math.ceil(high / step - 1e-9) * step
    return Axis(low, high, tuple(nice_ticks(low, high, 5)))


def _log_axis(low: float, high: float) -> Axis:
    """Ticks at powers of ten, and at 2 and 5 times them when there are few."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    few = math.log10(high / low) < 3
    stride = max(1, len(decades) // 6)
    factors = (1, 2, 5) if few else (1,)
    ticks = [f * 10.0**d for d in decades[::stride] for f in factors]
    low, high = low / 1.1, high * 1.1
    return Axis(low, high, tuple(t for t in ticks if low <= t <= high), is_log=True)


def nice_ticks(low: float, high: float, n_wanted: int) -> list[float]:
    """Multiples of 1, 2 or 5 times a power of ten within a range; two at least."""
    rough = (high - low) / n_wanted
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(f * power for f in (1, 2, 5, 10) if f * power >= rough * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    if last <= first:
        return [low, high]
    return [n * step for n in range(first, last + 1)]


def tick_label(value: float) -> str:
    """A short decimal: 0.05, 200, 20k, 1e-05."""
    if abs(value) < 1e-12:
        return "0"
    if abs(value) >= 10_000 and value == round(value):
        return f"{value / 1000:g}k"
    return f"{value:.4g}"
