"""Plots the losses of a run."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from .axes import Axis, fitting_axis, tick_label
from .colors import ALARM, INK, PAPER, QUIET, RGB, RULE, blend, series_colour
from .drawing import Canvas, text_width

NOT_LOSSES = frozenset(("step", "phase", "learning_rate", "seconds"))
TOTAL = "total"
MOST_POINTS = 2000  # of a line; a picture has no room for more
MOST_DOTS = 3  # in a column of pixels

Values = NDArray[np.float64]


def loss_plot(history: Sequence[Mapping[str, float]], size: tuple[int, int] = (640, 360)) -> Tensor:
    """Every loss term over the steps: a smoothed line upon its faint raw values.

    The rows name the terms, so each method has its own. The axis becomes logarithmic when
    the values span more than a factor of 30. NaN and infinite values are gaps with a red cross at
    the top. If a step occurs twice (after a return to the last good state), the last
    one counts.

    Args:
        history: rows such as {"step": 12, "phase": 0, "total": 0.1, "diffusion": 0.09}; or none.
        size: (width, height) in px.

    Returns:
        [height, width, 3], 0..1.
    """
    width, height = size
    canvas = Canvas(width, height)
    unit = min(width / 640, height / 360)
    text_px = max(9.0, 13 * unit)
    rows = _in_order(history)
    names = _term_names(rows)
    if not names:
        canvas.text((width / 2, height / 2), "No steps yet", text_px * 1.3, QUIET, "mm")
        return canvas.tensor()

    steps = np.array([row["step"] for row in rows])
    terms = {name: np.array([row.get(name, math.nan) for row in rows]) for name in names}
    starts = _phase_starts(rows)
    smooth = {name: _smoothed(values, starts) for name, values in terms.items()}
    colours = {name: INK if name == TOTAL else series_colour(i - 1) for i, name in enumerate(names)}
    if TOTAL not in terms:
        colours = {name: series_colour(i) for i, name in enumerate(names)}

    # Layout: legend above, labels left and below.
    legend_bottom = _draw_legend(canvas, smooth, colours, text_px, 16 * unit)
    y = fitting_axis(list(terms.values()), list(smooth.values()))
    labels = [tick_label(tick) for tick in y.ticks]
    left = 16 * unit + max(text_width(label, text_px) for label in labels) + 8 * unit
    top, right, bottom = legend_bottom + 26 * unit, width - 20 * unit, height - 44 * unit
    x = Axis.of_steps(float(steps[0]), float(steps[-1]))
    frame = _Frame(canvas, x, y, (left, top, right, bottom), unit)

    frame.draw_grid(text_px)
    frame.draw_phases([float(steps[i]) for i in starts], text_px)
    ordered = sorted(names, key=lambda name: name == TOTAL)  # the total lies on top
    for name in ordered:
        frame.draw_raw(steps, terms[name], blend(colours[name], PAPER, 0.72))
    for name in ordered:
        frame.draw_line(steps, smooth[name], starts, colours[name])
    broken = ~np.all([np.isfinite(terms[name]) | _absent(rows, name) for name in names], axis=0)
    frame.draw_broken(steps[broken], text_px)
    return canvas.tensor()


class _Frame:
    """Where the plot lies on the canvas, and what is drawn in it."""

    def __init__(
        self, canvas: Canvas, x: Axis, y: Axis, corners: tuple[float, ...], unit: float
    ) -> None:
        self._canvas, self._x, self._y, self._unit = canvas, x, y, unit
        self._left, self._top, self._right, self._bottom = corners

    def _px(self, step: float) -> float:
        return self._left + self._x.place(step) * (self._right - self._left)

    def _py(self, value: float) -> float:
        return self._bottom - self._y.place(value) * (self._bottom - self._top)

    def draw_grid(self, text_px: float) -> None:
        for tick in self._y.ticks:
            y = self._py(tick)
            self._canvas.line([(self._left, y), (self._right, y)], RULE, self._unit)
            place = (self._left - 8 * self._unit, y)
            self._canvas.text(place, tick_label(tick), text_px, QUIET, "rm")
        for tick in self._x.ticks:
            x = self._px(tick)
            foot = [(x, self._bottom), (x, self._bottom + 4 * self._unit)]
            self._canvas.line(foot, QUIET, self._unit)
            place = (x, self._bottom + 8 * self._unit)
            self._canvas.text(place, tick_label(tick), text_px, QUIET, "mt")
        base = [(self._left, self._bottom), (self._right, self._bottom)]
        self._canvas.line(base, QUIET, self._unit)
        caption = "step" + (", losses on a log scale" if self._y.is_log else "")
        place = ((self._left + self._right) / 2, self._bottom + 38 * self._unit)
        self._canvas.text(place, caption, text_px * 0.92, QUIET, "mb")

    def draw_phases(self, starts: Sequence[float], text_px: float) -> None:
        """A dashed line before the first step of every later phase, and their numbers."""
        if len(starts) < 2:
            return
        for number, start in enumerate(starts, 1):
            x = self._px(start - 0.5) if number > 1 else self._left
            if number > 1:
                y, dash = self._top, 5 * self._unit
                while y < self._bottom:
                    self._canvas.line([(x, y), (x, min(y + dash, self._bottom))], QUIET, self._unit)
                    y += 2 * dash
            place = (x + 5 * self._unit, self._top - 3 * self._unit)
            self._canvas.text(place, f"phase {number}", text_px * 0.92, QUIET, "lb")

    def draw_raw(self, steps: Values, values: Values, colour: RGB) -> None:
        """A dot each; where many share a column of pixels, a bar over their range."""
        columns: dict[int, list[float]] = {}
        for step, value in zip(steps, values, strict=True):
            if math.isfinite(value):
                columns.setdefault(round(self._px(step)), []).append(self._py(value))
        for column, heights in columns.items():
            if len(heights) > MOST_DOTS:
                ends = [(column, min(heights)), (column, max(heights))]
                self._canvas.line(ends, colour, 1.4 * self._unit)
                continue
            for height in heights:
                self._canvas.dot((column, height), colour, 1.4 * self._unit)

    def draw_line(self, steps: Values, values: Values, starts: Sequence[int], colour: RGB) -> None:
        """A line over each stretch of sound values in a phase; a dot where that is a single one."""
        bounds = np.union1d(starts, np.flatnonzero(np.diff(np.isfinite(values))) + 1).astype(int)
        for start, end in zip([0, *bounds], [*bounds, len(steps)], strict=True):
            if start == end or not math.isfinite(values[start]):
                continue
            indices = [*range(start, end, max(1, (end - start) // MOST_POINTS)), end - 1]
            points = [
                (self._px(float(steps[i])), self._py(float(values[i])))
                for i in dict.fromkeys(indices)
            ]
            self._canvas.line(points, colour, (2.2 if len(points) > 1 else 3) * self._unit)

    def draw_broken(self, steps: Values, text_px: float) -> None:
        """A red cross at the top over every step whose loss was not a number."""
        if not len(steps):
            return
        arm, y = 3.5 * self._unit, self._top + 6 * self._unit
        for column in sorted({round(self._px(step)) for step in steps}):
            for slope in (-1, 1):
                ends = [(column - arm, y - slope * arm), (column + arm, y + slope * arm)]
                self._canvas.line(ends, ALARM, 1.8 * self._unit)
        caption = f"x  NaN or infinite at {len(steps)} step{'s' if len(steps) > 1 else ''}"
        place = (self._right, self._bottom + 38 * self._unit)
        self._canvas.text(place, caption, text_px * 0.92, ALARM, "rb")


def _in_order(history: Sequence[Mapping[str, float]]) -> list[dict[str, float]]:
    numbered = ({"step": i, **row} for i, row in enumerate(history))
    by_step = {row["step"]: row for row in numbered}
    return [by_step[step] for step in sorted(by_step)]


def _term_names(rows: Sequence[Mapping[str, float]]) -> list[str]:
    """Total first, the others by name: a history that was saved between has another order."""
    seen = {name for row in rows for name in row if name not in NOT_LOSSES}
    return sorted(seen, key=lambda name: (name != TOTAL, name))


def _phase_starts(rows: Sequence[Mapping[str, float]]) -> list[int]:
    """Index of the first row of every phase."""
    phases = [row.get("phase", 0) for row in rows]
    return [i for i, phase in enumerate(phases) if i == 0 or phase != phases[i - 1]]


def _absent(rows: Sequence[Mapping[str, float]], name: str) -> NDArray[np.bool_]:
    """Rows that do not have a term, as phases without it: a gap, but nothing is broken."""
    return np.array([name not in row for row in rows])


def _smoothed(values: Values, starts: Sequence[int]) -> Values:
    """Gaussian mean over about a 20th of the run; never across phases, NaN where `values` is."""
    result = np.full(len(values), math.nan)
    spread = max(1.0, len(values) / 60)
    reach = int(3 * spread)
    weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / spread) ** 2)
    for start, end in zip(starts, [*starts[1:], len(values)], strict=True):
        part = values[start:end]
        sound = np.isfinite(part)
        total = np.convolve(np.where(sound, part, 0), weights)[reach : reach + len(part)]
        weight = np.convolve(sound.astype(float), weights)[reach : reach + len(part)]
        with np.errstate(invalid="ignore"):
            result[start:end] = np.where(sound, total / weight, math.nan)
    return result


def _draw_legend(
    canvas: Canvas,
    smooth: Mapping[str, Values],
    colours: Mapping[str, RGB],
    text_px: float,
    margin: float,
) -> float:
    """Name and last smoothed value of every term, in as many lines as they need; gives its end."""
    x, y = margin, margin + text_px / 2
    for name, values in smooth.items():
        sound = values[np.isfinite(values)]
        caption = f"{name} {sound[-1]:.3g}" if len(sound) else f"{name} -"
        wide = text_px * 1.6 + text_width(caption, text_px)
        if x > margin and x + wide > canvas.size[0] - margin:
            x, y = margin, y + text_px * 1.5
        canvas.line([(x, y), (x + text_px * 1.2, y)], colours[name], text_px / 5)
        canvas.text((x + text_px * 1.6, y), caption, text_px)
        x += wide + text_px * 1.4
    return y + text_px / 2
