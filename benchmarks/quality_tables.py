"""What the pages of quality benchmarks have in common: columns, comparisons, and how both are told.

Cells are (what was learned, seed, variant) -> measure -> one number for each picture or word.
"""

from __future__ import annotations

import platform
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date

import torch

from conceptloom.cli.demo.judge import mean

DUST = 1e-9  # what is left of a sum that is zero
Cells = Mapping[tuple[str, int, str], Mapping[str, Sequence[float]]]


@dataclass(frozen=True, slots=True)
class Measure:
    """A column of the table."""

    key: str
    title: str
    meaning: str
    is_better_high: bool = True


@dataclass(frozen=True, slots=True)
class Claim:
    """What a paper says, and the two rows and the column that can show it here.

    Attributes:
        whole: the variant that should be the better one.
        against: the other one.
        measure: key of a measure.
        margin: by how much `whole` may be worse; 0 where it has to be better.
    """

    text: str
    whole: str
    against: str
    measure: str
    margin: float = 0.0


def describe_machine() -> str:
    """When and where a page was made."""
    version = torch.__version__.split("+")[0]
    return f"{date.today()}, {platform.machine()}, torch {version}, one CPU thread"


def cell_means(cells: Cells, variant: str, measure: str) -> dict[tuple[str, int], float]:
    """(what was learned, seed) -> mean of a measure, where there is anything to measure."""
    return {
        (learned, seed): mean(found[measure])
        for (learned, seed, name), found in cells.items()
        if name == variant and found[measure]
    }


def compared(cells: Cells, whole: str, variant: str, measure: Measure) -> tuple[float, float, int]:
    """By how much `whole` is better: mean and standard error over what was learned, and how much
    that is.

    Seeds of one thing are averaged first: they resemble each other, and however many there are,
    they say nothing of other things.
    """
    ours, theirs = (cell_means(cells, name, measure.key) for name in (whole, variant))
    sign = 1 if measure.is_better_high else -1
    of_thing: dict[str, list[float]] = {}
    for key in ours:
        if key in theirs:
            of_thing.setdefault(key[0], []).append(sign * (ours[key] - theirs[key]))
    gains = [mean(of_seeds) for of_seeds in of_thing.values()]
    error = statistics.stdev(gains) / len(gains) ** 0.5 if len(gains) > 1 else float("nan")
    return mean(gains), error, len(gains)


def table_of(
    cells: Cells, variants: Iterable[str], measures: Sequence[Measure], *, digits: int
) -> list[str]:
    """A row for each variant: mean and standard deviation over its cells."""
    lines = [
        "| variant | cells | " + " | ".join(measure.title for measure in measures) + " |",
        "|---|---|" + "---|" * len(measures),
    ]
    for variant in variants:
        columns = [list(cell_means(cells, variant, m.key).values()) for m in measures]
        if columns[0]:
            figures = " | ".join(describe_spread(values, digits) for values in columns)
            lines.append(f"| {variant} | {len(columns[0])} | {figures} |")
    return lines


def table_with_gains(
    cells: Cells, whole: str, variants: Iterable[str], measures: Sequence[Measure]
) -> list[str]:
    """A row for each variant: means over its cells, and by how much `whole` is better."""
    lines = [
        "| variant | cells | " + " | ".join(measure.title for measure in measures) + " |",
        "|---|--:|" + "---|" * len(measures),
    ]
    for variant in variants:
        count = sum(name == variant for _, _, name in cells)
        if not count:
            continue
        figures = []
        for measure in measures:
            told = f"{mean(list(cell_means(cells, variant, measure.key).values())):.2f}"
            if variant != whole:
                gain, error, _ = compared(cells, whole, variant, measure)
                told += f" ({as_gain(gain, error)})"
            figures.append(told)
        lines.append(f"| {variant} | {count} | {' | '.join(figures)} |")
    return lines


def describe_spread(values: Sequence[float], digits: int) -> str:
    if not values:
        return "-"
    spread = statistics.stdev(values) if len(values) > 1 else float("nan")
    return f"{mean(values):.{digits}f} ± {spread:.{digits}f}"


def as_gain(gain: float, error: float, digits: int = 2) -> str:
    """A gain in bold where two standard errors make it sure."""
    text = f"{gain:+.{digits}f} ± {error:.{digits}f}"
    return f"**{text}**" if abs(gain) > 2 * error else text


def verdict_of(gain: float, error: float) -> str:
    """Plain words; two standard errors count as sure."""
    if gain == error == 0:
        return "**cannot tell**: all cells are alike, at the floor or ceiling of the measure"
    if abs(gain) < DUST:
        return "no difference"
    if gain > 2 * error:
        return "the whole method is better"
    if gain < -2 * error:
        return "**the whole method is worse**"
    if gain > 0:
        return "better, but within the spread"
    return "**not better** (within the spread)"


def describe_claim(cells: Cells, claim: Claim, measures: Sequence[Measure]) -> str:
    """A row: the claim, its measure, the gain, and whether it holds."""
    (measure,) = [m for m in measures if m.key == claim.measure]
    gain, error, _ = compared(cells, claim.whole, claim.against, measure)
    told = f"{measure.title}, {claim.against} | {as_gain(gain, error)}"
    return f"| {claim.text} | {told} | {claim_verdict(gain, error, claim.margin)} |"


def claim_verdict(gain: float, error: float, margin: float = 0.0) -> str:
    """Holds and fails are beyond two standard errors; the rest is open."""
    if gain - 2 * error > -margin:
        return "holds"
    return "fails" if gain + 2 * error < -margin else "open"
