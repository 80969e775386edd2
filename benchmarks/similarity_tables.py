"""What the pages of similarity have in common, whatever their columns are."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from datetime import date

from measuring import processor, versions

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
