"""Robustness: bad inputs, faults in every run, torn files, queues and little memory.

Runs the torture tests of the suite with more cases than the suite does, and counts how many were
tried and what failed. `--only "stopped and (LAG or fuser)"` tries a part again; the rest stays as
it was found.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Iterable, Sequence

from harness.pytest_runner import host_python, passes
from harness.results import RUNS, Column, Result, Row, Section, Table, bound, stamp
from harness.subject import Options, add_common_options

KEPT = RUNS / "torture"
FILES, HOST = "tests/unit/concepts/test_torture_files.py", "tests/host/torture"
TITLES = {
    "nodes": "nodes fed with bad input",
    "stops": "cancel, a crash, no memory inside of a run",
    "files": "files torn byte by byte",
    "queue": "runs after one another",
    "memory": "runs with little memory",
}
COUNTED = (
    Column(key="what", title="what", is_text=True),
    Column(key="cases", title="cases tried"),
    Column(key="failing", title="failing now"),
)


def tried(options: Options) -> tuple[list[dict], list[str]]:
    """The last row of every area, as the tests wrote them down; and which suites did not pass."""
    host = host_python()
    if host is None:
        sys.exit("No ComfyUI found; say where it is with COMFYUI_PATH.")
    tally = KEPT / f"{options.times}.jsonl"
    tally.parent.mkdir(parents=True, exist_ok=True)
    asked = {
        "CONCEPTLOOM_TORTURE": str(options.times),
        "CONCEPTLOOM_TORTURE_TALLY": str(tally),
    }
    failed: list[str] = []
    if options.only is None:
        tally.unlink(missing_ok=True)
        if not passes([FILES], environment=asked):
            failed.append(FILES)
    chosen = ["-k", options.only] if options.only else []
    if not passes([HOST], *chosen, host=host, environment=asked):
        failed.append(HOST)
    return last_rows(tally.read_text().splitlines() if tally.is_file() else []), failed


def last_rows(lines: Iterable[str]) -> list[dict]:
    """What a part tried again replaces what it found before."""
    found = {row["area"]: row for row in map(json.loads, lines)}
    return list(found.values())


def result_of(rows: Sequence[Row], suites: Sequence[str], times: int) -> Result:
    """What was tried and what failed.

    Args:
        suites: that did not pass, whatever they wrote down.
        times: how many times the suite's cases; from 2 on faults come at every pass of a run.
    """
    counts: dict[str, int] = defaultdict(int)
    failures: dict[str, list[str]] = defaultdict(list)
    for row in rows:
        area = row["area"].partition("/")[0]
        counts[area] += row["cases"]
        failures[area] += row["failures"]
    found = [row for row in rows if row["area"].startswith("found/")]
    fixed = [row["area"].partition("/")[2] for row in found if not row["failures"]]
    areas = [
        {"what": title, "cases": counts[area], "failing": len(failures[area])}
        for area, title in TITLES.items()
    ]
    nodes = [
        {
            "what": row["area"].partition("/")[2],
            "cases": row["cases"],
            "failing": len(row["failures"]),
        }
        for row in rows
        if row["area"].startswith("nodes/")
    ]
    notes = []
    if suites:
        notes.append(f"**Not passed, so that cases may be missing: {', '.join(suites)}.**")
    if still := [text for area in TITLES for text in failures[area]]:
        notes.append("\n".join(["Failing now:", "", *(f"- {text}" for text in still)]))
    sections = [
        Section(table=Table(name="areas", columns=COUNTED, rows=areas), after="\n\n".join(notes)),
        Section(
            heading="Found by these tests",
            text=f"{len(found)} cases, {len(fixed)} of them fixed.\n\n"
            + "\n".join(f"- {name}" for name in fixed),
        ),
        Section(heading="By node", table=Table(name="nodes", columns=COUNTED, rows=nodes)),
    ]
    about = (
        f"{times} times the suite's cases. A case fails when anything but a result or one of the "
        "pack's own errors comes out, when an input or a model is changed, when a hook stays "
        "behind, when cancel is not heard, when a run that goes on ends elsewhere than one that "
        "was never stopped, or when a torn file is read as another one."
    )
    claims = [
        bound(f"Torture: {title}, none failing", len(failures[area]), at_most=0)
        for area, title in TITLES.items()
    ]
    return Result(
        **stamp("cpu"), about=[about],
        sections=sections, claims=claims,
    )  # fmt: skip


def run(options: Options) -> Result:
    """Try everything, or the part that was named."""
    if options.quick:
        options.times = 1
    rows, failed = tried(options)
    if not rows:
        sys.exit("No test wrote anything down; see above.")
    return result_of(rows, failed, options.times)


def arguments(parser: argparse.ArgumentParser) -> None:
    add_common_options(parser)
    parser.add_argument("--times", type=int, default=6, help="how many times the suite's cases")
    parser.add_argument("--only", help="a part of the host tests, as pytest -k has it")
