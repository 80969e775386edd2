"""What the pages of similarity have in common, whatever their columns are."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from datetime import date

from measuring import processor, versions
from quality_tables import Measure, as_gain, compared

Row = Mapping[str, Sequence[float]]  # column -> a number for every picture, or for every object
Rows = Mapping[str, Mapping[str, Row]]  # variant -> scene -> what its pictures gave

SPREAD = "Mean ± standard deviation over the scenes; with one scene there is no spread."


def head(title: str, command: str, device: str) -> list[str]:
    """The first lines of a page: what was measured, how, when and where."""
    return [
        f"# {title}",
        "",
        f"    python {command}",
        "",
        f"{date.today():%d %B %Y}, {processor(device)}. {versions()}.",
        "",
    ]


def table(rows: Rows, columns: Sequence[str]) -> Iterator[str]:
    """A row for each variant: mean and standard deviation over the scenes' means.

    Nothing stands where a column has no number.
    """
    yield "| variant | " + " | ".join(columns) + " |"
    yield "|---|" + "--:|" * len(columns)
    for variant, scenes in rows.items():
        cells: list[str] = []
        for column in columns:
            means = [statistics.mean(row[column]) for row in scenes.values() if row[column]]
            spread = f" ± {statistics.stdev(means):.3f}" if len(means) > 1 else ""
            cells.append(f"{statistics.mean(means):.3f}{spread}" if means else "")
        yield f"| {variant} | " + " | ".join(cells) + " |"


def gain_table(
    rows: Rows, whole: str, against: Mapping[str, str], measures: Sequence[Measure], told: str
) -> Iterator[str]:
    """A row for each variant: by how much `whole` is better on the same scenes.

    Mean ± standard error over the scenes, bold beyond two; one scene alone has no error.

    Args:
        against: variant -> what stands in the last column.
        told: that column's head.
    """
    cells = {
        (scene, 0, variant): row
        for variant, scenes in rows.items()
        for scene, row in scenes.items()
    }
    yield "| against | " + " | ".join(measure.title for measure in measures) + f" | {told} |"
    yield "|---|" + "--:|" * len(measures) + "---|"
    for variant, word in against.items():
        gains = [compared(cells, whole, variant, measure) for measure in measures]
        figures = " | ".join(_gain(*gain) for gain in gains)
        yield f"| {variant} | {figures} | {word} |"


def _gain(gain: float, error: float, count: int) -> str:
    if count < 2:
        return f"{gain:+.3f}" if count else ""
    return as_gain(gain, error, 3)
