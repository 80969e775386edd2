"""Gains over the things that were learned, when they are sure, and how many would make them so.

A cell is (thing, seed, row of the table) -> measure -> a number for every picture or word. Seeds of
one thing are averaged first: they resemble each other, and however many there are, they say nothing
about other things. Sure is more than two standard errors over the things.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pandas as pd
from scipy import stats

from .results import Claim, Column, Row, Status, Table, Value

SURE = 2.0  # standard errors
DUST = 1e-9  # what is left of a sum that is zero
POWER = 0.8  # with which a gain of this size is to become sure
Cells = Mapping[tuple[str, int, str], Mapping[str, Sequence[float]]]


@dataclass(frozen=True)
class Measure:
    """A column of the table."""

    key: str
    title: str
    meaning: str
    is_better_high: bool = True


@dataclass(frozen=True)
class Expectation:
    """A claim of a paper, with the two rows and the measure that can show it here.

    Attributes:
        whole: the row that should be better.
        against: the other one.
        measure: key of a measure.
        margin: how much worse `whole` may be; 0 where it has to be better.
    """

    says: str
    whole: str
    against: str
    measure: str
    margin: float = 0.0


@dataclass(frozen=True)
class Gain:
    """How much better one row is: mean and standard error over `things`."""

    gain: float
    error: float
    things: int

    @property
    def is_sure(self) -> bool:
        return abs(self.gain) > SURE * self.error

    def value(self) -> Value:
        """For a table."""
        return {"gain": self.gain, "error": self.error, "sure": self.is_sure}

    def status(self, margin: float = 0.0) -> Status:
        """Met or missed beyond two standard errors, else not sure."""
        if self.gain - SURE * self.error > -margin:
            return Status.MET
        missed = self.gain + SURE * self.error < -margin
        return Status.MISSED if missed else Status.UNSURE

    def needed(self, margin: float = 0.0) -> int | None:
        """Things that would make a gain of this size sure, with a power of 80 %.

        None where it is sure, or where no number of things would do: no gain, or no spread.
        """
        gain = abs(self.gain + margin)
        if self.status(margin) is not Status.UNSURE or gain < DUST or not self.error > 0:
            return None
        errors = SURE + float(stats.norm.ppf(POWER))  # that the gain has to be away from zero
        return math.ceil(self.things * (errors * self.error / gain) ** 2)


def frame_of(cells: Cells) -> pd.DataFrame:
    """A row for each cell: thing, seed, row, and the mean of every measure; NaN without numbers."""
    rows = [
        {"thing": thing, "seed": seed, "row": row}
        | {
            key: float(np.mean(values)) if len(values) else math.nan
            for key, values in found.items()
        }
        for (thing, seed, row), found in cells.items()
    ]
    return pd.DataFrame(rows, columns=None if rows else ["thing", "seed", "row"])


def means_of(cells: Cells, row: str, measure: str) -> pd.Series:
    """(thing, seed) -> mean of a measure, where there is anything to measure."""
    frame = frame_of(cells)
    if measure not in frame:
        return pd.Series(dtype=float)
    return frame[frame["row"] == row].set_index(["thing", "seed"])[measure].dropna()


def compared(cells: Cells, whole: str, against: str, measure: Measure) -> Gain:
    """How much better `whole` is on the cells that both rows have; positive is better."""
    ours, theirs = (means_of(cells, row, measure.key) for row in (whole, against))
    sign = 1 if measure.is_better_high else -1
    gains = (sign * (ours - theirs)).dropna()
    if gains.empty:
        return Gain(math.nan, math.nan, 0)
    gains = gains.groupby(level="thing").mean()
    error = float(stats.sem(gains)) if len(gains) > 1 else math.nan
    gain = float(gains.mean())
    return Gain(0.0 if abs(gain) < DUST else gain, error, len(gains))


def has_row(cells: Cells, row: str) -> bool:
    return any(name == row for _, _, name in cells)


def spread_table(
    name: str, cells: Cells, rows: Iterable[str], measures: Sequence[Measure], digits: int
) -> Table:
    """Mean and standard deviation over the cells of each row."""
    found: list[Row] = []
    for row in rows:
        columns = {m.key: means_of(cells, row, m.key) for m in measures}
        count = sum(each == row for _, _, each in cells)
        if count:
            values: dict[str, Value] = {key: _spread(column) for key, column in columns.items()}
            found.append({"row": row, "cells": count, **values})
    return Table(name=name, columns=_columns(measures, digits), rows=found)


def gain_table(
    name: str, cells: Cells, whole: str, rows: Iterable[str], measures: Sequence[Measure],
    digits: int = 2, *, means: bool = False,
) -> Table:  # fmt: skip
    """How much better `whole` is than each row, on every measure.

    Args:
        means: also the row's own mean, and a row for `whole`.
    """
    found: list[Row] = []
    for row in rows:
        if not has_row(cells, row) or (row == whole and not means):
            continue
        values: dict[str, Value] = {}
        for measure in measures:
            value = {} if row == whole else dict(compared(cells, whole, row, measure).value())
            if means:
                value = {"mean": float(means_of(cells, row, measure.key).mean()), **value}
            values[measure.key] = value
        count = sum(each == row for _, _, each in cells)
        found.append({"row": row, **({"cells": count} if means else {}), **values})
    return Table(name=name, columns=_columns(measures, digits, counted=means), rows=found)


def judged(
    cells: Cells, expectations: Iterable[Expectation], measures: Sequence[Measure]
) -> list[Claim]:
    """What the cells say of each expectation whose rows are there."""
    by_key = {measure.key: measure for measure in measures}
    claims: list[Claim] = []
    for one in expectations:
        measure = by_key[one.measure]
        gain = compared(cells, one.whole, one.against, measure)
        if not gain.things:
            continue
        claims.append(
            Claim(
                says=one.says, measure=f"{measure.title}, beside {one.against}", found=gain.gain,
                error=gain.error, margin=one.margin, status=gain.status(one.margin),
                needed=gain.needed(one.margin),
            )
        )  # fmt: skip
    return claims


def cell_rows(cells: Cells) -> list[Row]:
    """The cells as a result keeps them."""
    return frame_of(cells).to_dict("records")


def trend(
    series: Sequence[Sequence[float]], *, falls: bool = False
) -> dict[str, float | bool | int]:
    """Whether figures rise with what is swept, or fall.

    Args:
        series: each from the first of the swept values to the last.
    """
    sign = -1 if falls else 1
    means = np.mean(series, axis=0)
    follows = [all(sign * a <= sign * b for a, b in pairwise(row)) for row in (means, *series)]
    ends = [row[-1] - row[0] for row in series]
    return {
        "follows": follows[0],
        "alone": sum(follows[1:]),
        "series": len(series),
        "change": float(np.mean(ends)),
        "error": float(stats.sem(ends)) if len(ends) > 1 else math.nan,
    }


def describe_trend(
    series: Sequence[Sequence[float]], over: str, values: Sequence[float], *, falls: bool = False
) -> str:
    """The same as the end of a sentence; `over` is what is swept, `values` its values."""
    one, verb = trend(series, falls=falls), "fall" if falls else "rise"
    word = f"{verb}s" if one["follows"] else f"**does not {verb}**"
    told = (
        f"{word} with {over} in the mean, and in {one['alone']} of {one['series']} series by "
        f"itself; from {over} {values[0]:g} to {values[-1]:g} by {one['change']:+.4f}"
    )
    if math.isnan(one["error"]):
        return told
    return f"{told} ± {one['error']:.4f} (standard error over the series)"


def _spread(column: pd.Series) -> Value:
    if column.empty:
        return None
    mean = float(column.mean())
    return {"mean": mean, "spread": float(column.std())} if len(column) > 1 else {"mean": mean}


def _columns(measures: Sequence[Measure], digits: int, *, counted: bool = True) -> list[Column]:
    first = [Column(key="row", title="variant", is_text=True)]
    first += [Column(key="cells", title="cells", digits=0)] if counted else []
    return first + [Column(key=m.key, title=m.title, digits=digits) for m in measures]
