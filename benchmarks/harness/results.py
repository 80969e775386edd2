"""What a benchmark found, as JSON under `benchmarks/results`; pages are rendered from it.

A value in a table is a number, a text, or a mapping of numbers: `mean` with `spread` (standard
deviation), `gain` with `error` (standard error over the things learned), or `mean` with `gain` and
`error`. Everything that a page shows or a claim judges is in the file.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import date
from enum import Enum
from pathlib import Path
from typing import Any

from .machine import processor, versions

ROOT = Path(__file__).resolve().parents[2]
RESULTS, PAGES = ROOT / "benchmarks" / "results", ROOT / "docs" / "results"
RUNS = ROOT / "runs" / "benchmarks"  # finished work, and results that are not the repository's

Value = float | int | str | None | Mapping[str, Any]
Row = Mapping[str, Value]


class Status(str, Enum):
    """What is known of a claim; sure is more than two standard errors."""

    MET = "met"
    MISSED = "missed"
    UNSURE = "not sure"
    UNMEASURED = "not measured"


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A claim, the figure that it was judged by, and the verdict.

    Attributes:
        measure: what the figure is, and beside which variant.
        found: the ratio, the gain (positive is better), or a word.
        error: standard error of a gain.
        margin: how much worse still counts as met, where something is said to cost nothing.
        at_most, at_least: the limit of a ratio.
        why: the reason, if it is missed.
        needed: how many things learned would make this gain sure.
    """

    says: str
    measure: str = ""
    found: float | str | None = None
    error: float | None = None
    margin: float = 0.0
    at_most: float | None = None
    at_least: float | None = None
    status: Status = Status.UNMEASURED
    why: str = ""
    needed: int | None = None


def bound(
    says: str,
    found: float | None,
    *,
    at_most: float | None = None,
    at_least: float | None = None,
    measure: str = "",
    why: str = "",
) -> Claim:
    """A figure that has a limit; `why` is kept where the limit is missed."""
    status = Status.UNMEASURED
    if found is not None:
        kept = (at_most is None or found <= at_most) and (at_least is None or found >= at_least)
        status = Status.MET if kept else Status.MISSED
    return Claim(
        says=says, found=found, at_most=at_most, at_least=at_least, status=status,
        measure=measure, why=why if status is Status.MISSED else "",
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Column:
    """Key of a value in the rows, its head, and how many digits it is shown with."""

    key: str
    title: str
    digits: int = 2
    is_text: bool = False


@dataclass(frozen=True, kw_only=True)
class Table:
    """Rows of figures; `name` tells the tables of a result apart."""

    name: str
    columns: Sequence[Column]
    rows: Sequence[Row]

    def value(self, row: str, column: str) -> Value:
        """Of the row whose first column is `row`.

        Raises:
            LookupError: there is no such row or column.
        """
        first = self.columns[0].key
        for each in self.rows:
            if each.get(first) == row and column in each:
                return each[column]
        raise LookupError(f"Table {self.name!r} has no {column!r} for {row!r}.")


@dataclass(frozen=True, kw_only=True)
class Section:
    """A part of the page: a heading, text in Markdown, a table, and text after it."""

    heading: str = ""
    text: str = ""
    table: Table | None = None
    after: str = ""


@dataclass(frozen=True, kw_only=True)
class Result:
    """All that one benchmark found.

    Attributes:
        page, title: name of the page and of the file; `Subject.run` fills them in.
        command: what makes it again; `run.py` fills it in.
        machine: with the precision and threads.
        about: paragraphs before the tables: what was measured, and how.
        claims_about: a paragraph before the table of claims.
        picture: file beside the page, and its caption.
        cells: (thing, seed, variant) and the mean of every measure, where things were learned.
    """

    page: str = ""
    title: str = ""
    command: str = ""
    date: str
    machine: str
    versions: Mapping[str, str] = field(default_factory=dict)
    about: Sequence[str] = ()
    sections: Sequence[Section] = ()
    claims: Sequence[Claim] = ()
    claims_about: str = ""
    picture: tuple[str, str] | None = None
    cells: Sequence[Row] = ()

    def table(self, name: str) -> Table:
        """The table of this name.

        Raises:
            LookupError: there is none.
        """
        for section in self.sections:
            if section.table is not None and section.table.name == name:
                return section.table
        raise LookupError(f"{self.page} has no table {name!r}.")


def stamp(device: str, *details: str) -> dict[str, Any]:
    """Date, machine and versions of a result that is made now."""
    machine = ", ".join([processor(device), *details])
    return {"date": date.today().isoformat(), "machine": machine, "versions": versions()}


def to_json(result: Result) -> str:
    """Text of the file; what is empty is left out, NaN is null."""
    return json.dumps(_pruned(asdict(result)), indent=1, ensure_ascii=False) + "\n"


def from_json(text: str) -> Result:
    """A result as `to_json` wrote it."""
    raw = json.loads(text)
    sections = [
        Section(**{**section, "table": _table(section.get("table"))})
        for section in raw.pop("sections", ())
    ]
    claims = [
        Claim(**{**claim, "status": Status(claim["status"])}) for claim in raw.pop("claims", ())
    ]
    picture = raw.pop("picture", None)
    return Result(
        **raw, sections=sections, claims=claims, picture=tuple(picture) if picture else None
    )


def save(result: Result, folder: Path = RESULTS) -> Path:
    """Write the file of a result."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{result.page}.json"
    path.write_text(to_json(result), encoding="utf-8")
    return path


def load(page: str, folder: Path = RESULTS) -> Result | None:
    """The result of a page; None if it was not measured."""
    path = folder / f"{page}.json"
    return from_json(path.read_text(encoding="utf-8")) if path.is_file() else None


def load_all(folder: Path = RESULTS) -> dict[str, Result]:
    """Every result of a folder, by page."""
    paths = sorted(folder.glob("*.json"))
    return {path.stem: from_json(path.read_text(encoding="utf-8")) for path in paths}


def _table(raw: Mapping[str, Any] | None) -> Table | None:
    if raw is None:
        return None
    return Table(
        name=raw["name"],
        columns=[Column(**{"title": "", **c}) for c in raw["columns"]],
        rows=raw.get("rows", []),
    )


def _pruned(value: Any) -> Any:
    if isinstance(value, Mapping):
        pruned = {key: _pruned(one) for key, one in value.items()}
        return {k: v for k, v in pruned.items() if v not in (None, "", [], {}, ()) or k == "found"}
    if isinstance(value, (list, tuple)):
        return [_pruned(one) for one in value]
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, float):
        return None if value != value else float(f"{value:.6g}")
    return value
