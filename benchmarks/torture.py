"""What the pack survives: bad inputs, faults in every run, torn files, queues and little memory.

    COMFYUI_PATH=~/comfy/ComfyUI .venv/bin/python benchmarks/torture.py --times 2
    ... --times 2 --only "stopped and (LAG or fuser)"     a part of it, the rest as it was found

Runs the torture tests of the suite with more cases than the suite does, and writes how many were
tried and what failed. What was found stands below `runs/`; a part alone brings its own rows up to
date there. COMFYUI_PYTHON names ComfyUI's Python where it is not in its folder.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import date
from pathlib import Path

from suites import ROOT, host_python, passes

PAGE = ROOT / "docs" / "results" / "torture.md"
KEPT = ROOT / "runs" / "torture"
FILES, HOST = "tests/unit/concepts/test_torture_files.py", "tests/host/torture"
TITLES = {
    "nodes": "nodes fed with bad input",
    "stops": "cancel, a crash, no memory inside of a run",
    "files": "files torn byte by byte",
    "queue": "runs after one another",
    "memory": "runs with little memory",
}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--times", type=int, default=6, help="how many times the suite's cases")
    parser.add_argument("--output", type=Path, default=PAGE)
    parser.add_argument("--only", help="a part of the host tests, as pytest -k has it")
    return parser.parse_args()


def tried(options: argparse.Namespace) -> tuple[list[dict], list[str]]:
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


def page_of(rows: Sequence[dict], suites: Sequence[str], times: int) -> str:
    """The results as Markdown.

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
    mended = [row["area"].partition("/")[2] for row in found if not row["failures"]]
    lines = [
        "# Torture: what the pack survives",
        "",
        f"Written by `python benchmarks/torture.py --times {times}` on {date.today():%d %B %Y}: "
        f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}.",
        "",
        "A case fails when anything comes of it but a result or one of the pack's own errors, when "
        "an input or a model is changed, when a hook stays behind, when cancel is not heard, when "
        "a run that goes on ends elsewhere than one that was never stopped, or when a torn file "
        "is read as another one.",
        "",
        "| what | cases tried | failing now |",
        "|---|--:|--:|",
    ]
    for area, title in TITLES.items():
        lines.append(f"| {title} | {counts[area]} | {len(failures[area])} |")
    lines += ["", f"Found by these tests: {len(found)} cases; mended: {len(mended)}.", ""]
    lines += [f"- {name}" for name in mended]
    if suites:
        lines += ["", f"**Not passed, so that cases may be missing above: {', '.join(suites)}.**"]
    if still := [text for area in TITLES for text in failures[area]]:
        lines += ["", "Failing now:", "", *(f"- {text}" for text in still)]
    nodes = [row for row in rows if row["area"].startswith("nodes/")]
    if nodes:
        lines += ["", "| node | cases | failing |", "|---|--:|--:|"]
        for row in nodes:
            name = row["area"].partition("/")[2]
            lines.append(f"| {name} | {row['cases']} | {len(row['failures'])} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    options = arguments()
    rows, failed = tried(options)
    if not rows:
        sys.exit("No test wrote anything down; see above.")
    options.output.write_text(page_of(rows, failed, options.times))
    print(f"{sum(row['cases'] for row in rows)} cases; written to {options.output}")


if __name__ == "__main__":
    main()
