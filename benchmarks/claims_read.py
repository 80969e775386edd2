"""Reads the figures and verdicts of claims off the pages, and their tests off pytest's report."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from xml.etree import ElementTree

from claims import Claim, Exact, Figure, Verdicts

NUMBER = re.compile(r"[-+]?\d[\d,]*(?:\.\d+)?")
HOLDS = ("yes", "met", "holds", "better", "the whole method is better")
FAILS = ("no", "missed", "fails", "worse", "the whole method is worse")


class Status(Enum):
    MET = "met"
    MISSED = "**missed**"
    OPEN = "not sure"
    UNKNOWN = "not measured"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the page.

    Attributes:
        says: the claim.
        found: the number, the verdict in the page's words, or how many cases of the tests passed.
        source: page, or files of tests.
    """

    says: str
    found: str
    status: Status
    source: str
    why: str = ""


@dataclass(frozen=True, slots=True)
class Table:
    """A table of a page, and the heading above it."""

    under: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]


Outcomes = Mapping[str, Sequence[str]]  # "file::name" -> "passed", "failed" or "skipped" a case


def tables_of(text: str) -> Iterator[Table]:
    """The tables of a page in Markdown, in their order."""
    under, block = "", []
    for line in [*text.splitlines(), ""]:
        if line.startswith("|"):
            block.append([cell.strip() for cell in line.strip()[1:-1].split("|")])
            continue
        if block:
            yield Table(under, block[0], block[2:])
            block = []
        if line.startswith("#"):
            under = line.lstrip("# ").strip()


def findings_of(claim: Claim, pages: Path, outcomes: Outcomes) -> Iterator[Finding]:
    """What is known of a claim.

    Args:
        pages: folder of the results.

    Raises:
        LookupError: a page is there, and the table, row or column of the claim is not.
    """
    if isinstance(claim, Exact):
        yield _tested(claim, outcomes)
        return
    path = pages / f"{claim.page}.md"
    if not path.is_file():
        yield Finding(claim.says, "", Status.UNKNOWN, claim.page)
        return
    table = _table(claim, path)
    if isinstance(claim, Figure):
        yield _figure(claim, table)
        return
    for row in table.rows:
        told = ", ".join(cell for cell in row[: claim.labels] if cell)
        verdict = row[_column(claim, table)]
        yield Finding(f"{claim.says}: {told}", plain(verdict), judged(verdict), claim.page)


def plain(cell: str) -> str:
    return cell.replace("*", "").strip()


def judged(verdict: str) -> Status:
    """What the words of a page say."""
    said = plain(verdict).lower()
    if said in HOLDS or said.startswith("met,"):
        return Status.MET
    if said in FAILS or said.startswith("missed:"):
        return Status.MISSED
    return Status.UNKNOWN if said.startswith("not judged") else Status.OPEN


def outcomes_of(report: Path) -> dict[str, list[str]]:
    """What a report of pytest (JUnit's form, family xunit1) says, by test."""
    found: dict[str, list[str]] = {}
    for case in ElementTree.parse(report).iter("testcase"):
        name = f"{case.get('file')}::{(case.get('name') or '').partition('[')[0]}"
        broken = any(case.find(kind) is not None for kind in ("failure", "error"))
        left_out = case.find("skipped") is not None
        outcome = "failed" if broken else "skipped" if left_out else "passed"
        found.setdefault(name, []).append(outcome)
    return found


def _tested(claim: Exact, outcomes: Outcomes) -> Finding:
    every = [outcome for name in claim.tests for outcome in outcomes.get(name, [])]
    ran = all("passed" in outcomes.get(name, []) for name in claim.tests)
    status = Status.MET if ran else Status.UNKNOWN
    if "failed" in every:
        status = Status.MISSED
    files = dict.fromkeys(name.partition("::")[0] for name in claim.tests)
    counted = ((every.count(kind), kind) for kind in ("passed", "failed", "skipped"))
    told = ", ".join(f"{count} {kind}" for count, kind in counted if count)
    return Finding(claim.says, told, status, ", ".join(files))


def _table(claim: Figure | Verdicts, path: Path) -> Table:
    for table in tables_of(path.read_text(encoding="utf-8")):
        if claim.under not in ("", _heading(table)) or claim.column not in table.head:
            continue
        if isinstance(claim, Verdicts) or _row(claim, table):
            return table
    raise LookupError(f"{path.name} has no table for: {claim.says}")


def _heading(table: Table) -> str:
    """Without what follows a comma: "tinyworld, latents 16x16" is tinyworld's."""
    return table.under.partition(",")[0]


def _row(claim: Figure, table: Table) -> Sequence[str] | None:
    return next((row for row in table.rows if f"{row[0]} |".startswith(claim.row)), None)


def _column(claim: Figure | Verdicts, table: Table) -> int:
    """The last of that name."""
    return max(i for i, name in enumerate(table.head) if name == claim.column)


def _figure(claim: Figure, table: Table) -> Finding:
    row = _row(claim, table) or ()
    number = NUMBER.search(plain(row[_column(claim, table)]))
    if number is None:
        return Finding(claim.says, "", Status.UNKNOWN, claim.page)
    value = float(number.group().replace(",", ""))
    kept = (claim.most is None or value <= claim.most) and (
        claim.least is None or value >= claim.least
    )
    status = Status.MET if kept else Status.MISSED
    return Finding(claim.says, number.group(), status, claim.page, "" if kept else claim.why)
