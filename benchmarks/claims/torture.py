"""Robustness: bad inputs, faults in every run, torn files, LoRA files, queues, servers, memory.

Runs the torture tests of the suite with more cases than the suite does, and counts how many were
tried and what failed. `--only "stopped and (LAG or fuser)"` or `--only changed_file` tries a part
again; the rest of the result stays, with its date.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Iterable, Sequence

from harness.pytest_runner import host_python, passes
from harness.results import RUNS, Claim, Column, Result, Row, Section, Table, bound, load, stamp
from harness.subject import Options, add_common_options

PAGE = "torture"
TALLIES = RUNS / "torture"
FILES = ("tests/unit/concepts/test_torture_files.py", "tests/unit/concepts/test_torture_loras.py")
HOST = ("tests/host/torture", "tests/workflows/test_endurance.py")
KILLED = (
    "tests/unit/batch/test_cluster.py::test_a_killed_worker_loses_nothing_and_nothing_is_done_twice"
)
TITLES = {
    "nodes": "nodes fed with bad input",
    "stops": "cancel, a crash, no memory inside of a run",
    "files": "files torn byte by byte",
    "loras": "LoRA files of every kind changed at random",
    "queue": "runs after one another",
    "memory": "runs with little memory",
    "servers": "many runs in one server, two servers on one models folder",
    "batch": "a worker of `conceptloom batch` killed",
}
COUNTED = (
    Column(key="what", title="what", is_text=True),
    Column(key="cases", title="cases tried"),
    Column(key="failing", title="failing now"),
)
DATED = (*COUNTED, Column(key="date", title="date", is_text=True))
DETAILS = {  # area -> heading of a table with its parts
    "nodes": "By node",
    "loras": "LoRA files, by family of the base model and kind of change",
    "servers": "Servers",
}


def tried(options: Options) -> tuple[list[dict], list[str]]:
    """The last row of every area, as the tests wrote them down; and which suites did not pass."""
    host = host_python()
    if host is None:
        sys.exit("No ComfyUI found; say where it is with COMFYUI_PATH.")
    tally = TALLIES / f"{options.times}.jsonl"
    tally.parent.mkdir(parents=True, exist_ok=True)
    environment = {
        "CONCEPTLOOM_TORTURE": str(options.times),
        "CONCEPTLOOM_TORTURE_TALLY": str(tally),
    }
    chosen = ["-k", options.only] if options.only else []
    if options.only is None:
        tally.unlink(missing_ok=True)
    failed = [suite for suite in FILES if not passes([suite], *chosen, environment=environment)]
    failed += [
        suite for suite in HOST if not passes([suite], *chosen, host=host, environment=environment)
    ]
    if options.only is None or options.only in KILLED:
        survived = passes([KILLED])
        row = {"area": "batch/killed", "cases": 1, "failures": [] if survived else [KILLED]}
        with open(tally, "a") as file:
            file.write(json.dumps(row) + "\n")
    return last_rows(tally.read_text().splitlines() if tally.is_file() else []), failed


def last_rows(lines: Iterable[str]) -> list[dict]:
    """A part tried again replaces its earlier row."""
    rows = {row["area"]: row for row in map(json.loads, lines)}
    return list(rows.values())


def result_of(
    rows: Sequence[Row], suites: Sequence[str], times: int, before: Result | None = None
) -> Result:
    """What was tried and what failed.

    Args:
        suites: that did not pass, whatever they wrote down.
        times: how many times the suite's cases; from 2 on faults come at every pass of a run.
        before: the earlier result; areas that were not tried now stay as they are there.
    """
    counts: dict[str, int] = defaultdict(int)
    failures: dict[str, list[str]] = defaultdict(list)
    for row in rows:
        area = row["area"].partition("/")[0]
        counts[area] += row["cases"]
        failures[area] += row["failures"]
    made = stamp("cpu")
    areas = [
        {"what": title, "cases": counts[area], "failing": len(failures[area]), "date": made["date"]}
        if counts[area]
        else _earlier(before, title)
        for area, title in TITLES.items()
    ]
    notes = []
    if suites:
        notes.append(f"**Not passed, so that cases may be missing: {', '.join(suites)}.**")
    if still := [text for area in TITLES for text in failures[area]]:
        notes.append("\n".join(["Failing now:", "", *(f"- {text}" for text in still)]))
    sections = [
        Section(table=Table(name="areas", columns=DATED, rows=areas), after="\n\n".join(notes))
    ]
    sections += _fixed(rows, before)
    for area, heading in DETAILS.items():
        if part := _rows_of(area, rows) or _earlier_rows(before, area):
            table = Table(name=area, columns=COUNTED, rows=part)
            sections.append(Section(heading=heading, table=table))
    return Result(
        **made, about=[f"{times} times the suite's cases. {ABOUT}"],
        sections=sections, claims=[_claim(row) for row in areas],
    )  # fmt: skip


ABOUT = """\
A case fails when anything but a result or one of the pack's own errors comes out, when an input
or a model is changed, when a hook stays behind, when cancel is not heard, when a run that goes on
ends elsewhere than one that was never stopped, or when a torn file is read as another one. A LoRA
file also fails when it takes 20 s or 256 MB more than before, when its error is longer than 2,000
characters or not printable, or when a file appears outside its folder; a server fails when its
memory grows by over 2 % after the first quarter of its runs.""".replace("\n", " ")


def _claim(row: Row) -> Claim:
    return bound(f"Torture: {row['what']}, none failing", row.get("failing"), at_most=0)


def _fixed(rows: Sequence[Row], before: Result | None) -> list[Section]:
    """The faults that these tests discovered and that are fixed."""
    heading = "Found by these tests"
    discovered = [row for row in rows if row["area"].startswith("found/")]
    if not discovered:
        return [s for s in (before.sections if before else ()) if s.heading == heading]
    fixed = [row["area"].partition("/")[2] for row in discovered if not row["failures"]]
    text = f"{len(discovered)} cases, {len(fixed)} of them fixed.\n\n"
    return [Section(heading=heading, text=text + "\n".join(f"- {name}" for name in fixed))]


def _earlier(before: Result | None, title: str) -> Row:
    """An area as it was measured before."""
    known = before.table("areas").rows if before is not None else ()
    row = next((row for row in known if row["what"] == title and row.get("cases")), None)
    if row is None or before is None:
        return {"what": title}
    return {"date": before.date, **row}


def _earlier_rows(before: Result | None, area: str) -> Sequence[Row]:
    try:
        return before.table(area).rows if before is not None else ()
    except LookupError:
        return ()


def _rows_of(area: str, rows: Sequence[Row]) -> list[Row]:
    return [
        {
            "what": row["area"].partition("/")[2],
            "cases": row["cases"],
            "failing": len(row["failures"]),
        }
        for row in rows
        if row["area"].startswith(f"{area}/")
    ]


def run(options: Options) -> Result:
    """Try everything, or the part that was named."""
    if options.quick:
        options.times = 1
    rows, failed = tried(options)
    if not rows:
        sys.exit("No test wrote anything down; see above.")
    return result_of(rows, failed, options.times, load(PAGE) if options.only else None)


def is_usual(options: Options) -> bool:
    """Whether this makes the repository's own result: a part does, too, for the rest stays."""
    return options.times > 1 and not options.quick


def arguments(parser: argparse.ArgumentParser) -> None:
    add_common_options(parser)
    parser.add_argument("--times", type=int, default=6, help="how many times the suite's cases")
    parser.add_argument("--only", help="a part of the host tests, as pytest -k has it")
