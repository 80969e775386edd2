"""Every claim of the pack beside what was measured and tested, from one command.

    python benchmarks/prove.py
    python benchmarks/prove.py --measure                the tables first: hours on two cores
    python benchmarks/prove.py --measure lag_cost scaling
    python benchmarks/prove.py --report                 no test again, as the last run found them

Reads numbers and verdicts off the pages in `docs/results`, runs the tests that exact claims stand
on (those of the nodes inside of ComfyUI, where there is one), and writes which claims are met,
missed or not sure. `--measure` runs the commands of the table in docs/results first; what a
benchmark has finished before (below `runs/`), it does not compute again.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import date
from pathlib import Path

from claims import CLAIMS, Exact
from claims_read import Finding, Outcomes, Status, findings_of, outcomes_of
from measuring import processor, versions
from suites import ROOT, host_python, passes

PAGES = ROOT / "docs" / "results"
PAGE = PAGES / "claims.md"
FOUND = ROOT / "runs" / "prove" / "tests.json"  # what the tests of the last run said
IN_COMFYUI = ("beside_core", "residuals_step")  # benchmarks that need its Python
PROGRAM = re.compile(r"\| \[.*?\]\((\w+)\.md\) \| `python (.+?)` \|")
MEANING = """\
*met*: the number keeps what was promised, the verdict is beyond two standard errors, or every
test passes and no case of it fails. *not sure*: the difference is within two standard errors.
*missed*: the number or the verdict says the opposite. *not measured*: what it needs is not here."""


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--measure", nargs="*", metavar="PAGE", help="write these pages anew first")
    parser.add_argument("--report", action="store_true", help="run no test")
    parser.add_argument("--out", type=Path, default=PAGE)
    return parser.parse_args()


def programs() -> dict[str, list[str]]:
    """Name of a page -> the words of its command behind "python", from the table of the results."""
    table = (ROOT / "docs" / "results" / "README.md").read_text(encoding="utf-8")
    found = {page: shlex.split(command) for page, command in PROGRAM.findall(table)}
    return {page: command for page, command in found.items() if page != PAGE.stem}


def measure(wanted: Sequence[str]) -> list[str]:
    """Write pages anew; returns those that could not be."""
    known, host = programs(), host_python()
    if unknown := [page for page in wanted if page not in known]:
        sys.exit(f"No page {unknown[0]}; there are {', '.join(known)}.")
    failed: list[str] = []
    for page in wanted or known:
        python, place = sys.executable, {}
        if page in IN_COMFYUI:
            if host is None:
                failed.append(page)
                continue
            python, place = host[1], {"COMFYUI_PATH": str(host[0])}
        print(f"{page}: python {shlex.join(known[page])}", flush=True)
        command = [python, *known[page]]
        if subprocess.run(command, cwd=ROOT, env=os.environ | place, check=False).returncode:
            failed.append(page)
    return failed


def tested() -> Outcomes:
    """What the tests of all claims say."""
    every = [claim for claims in CLAIMS.values() for claim in claims]
    names = sorted({name for c in every if isinstance(c, Exact) for name in c.tests})
    host, found = host_python(), {}
    with tempfile.TemporaryDirectory() as place:
        for where, inside in ((None, False), (host, True)):
            chosen = [name for name in names if name.startswith("tests/host/") == inside]
            if inside and host is None:
                print("No ComfyUI found: what is tested inside of it stays open.", file=sys.stderr)
                continue
            report = Path(place) / f"{inside}.xml"
            passes(chosen, f"--junitxml={report}", "-o", "junit_family=xunit1", host=where)
            if report.is_file():
                found |= outcomes_of(report)
    FOUND.parent.mkdir(parents=True, exist_ok=True)
    FOUND.write_text(json.dumps(found), encoding="utf-8")
    return found


def page(findings: Mapping[str, Sequence[Finding]], not_measured: Sequence[str] = ()) -> str:
    """The claims as Markdown, method by method, and above them what is missed."""
    every = [finding for of_method in findings.values() for finding in of_method]
    counts = Counter(finding.status for finding in every)
    told = ", ".join(f"{counts[status]} {status.value.strip('*')}" for status in Status)
    lines = [
        "# What the pack claims, and what was found",
        "",
        "    python benchmarks/prove.py",
        "",
        f"{date.today()}, {processor('cpu')}. {versions()}. The date and machine of a figure stand "
        "on its page.",
        "",
        f"{len(every)} claims: {told}.",
        "",
        MEANING,
    ]
    if not_measured:
        lines += ["", f"**Could not be written anew: {', '.join(not_measured)}.**"]
    if missed := [finding for finding in every if finding.status is Status.MISSED]:
        lines += ["", "## Missed", "", *(_explained(finding) for finding in missed)]
    for method, of_method in findings.items():
        lines += ["", f"## {method}", "", "| claim | found | | from |", "|---|---|---|---|"]
        lines += [
            f"| {f.says} | {f.found} | {f.status.value} | {'<br>'.join(_links(f.source))} |"
            for f in of_method
        ]
    return "\n".join([*lines, ""])


def _explained(finding: Finding) -> str:
    why = finding.why or f"see {', '.join(_links(finding.source))}"
    return f"* {finding.says}: {finding.found}; {why}."


def _links(source: str) -> Iterator[str]:
    """A page, or the files of tests."""
    for name in source.split(", "):
        if name.endswith(".py"):
            yield f"[{Path(name).stem}](../../{name})"
        elif (PAGES / f"{name}.md").is_file():
            yield f"[{name}]({name}.md)"
        else:
            yield f"`benchmarks/{name}.py`"


def main() -> None:
    options = arguments()
    failed = measure(options.measure) if options.measure is not None else []
    outcomes = json.loads(FOUND.read_text(encoding="utf-8")) if options.report else tested()
    findings = {
        method: [found for claim in claims for found in findings_of(claim, PAGES, outcomes)]
        for method, claims in CLAIMS.items()
    }
    options.out.write_text(page(findings, failed), encoding="utf-8")
    print(f"wrote {options.out}")
    broken = [f for of_method in findings.values() for f in of_method
              if f.status is Status.MISSED and f.source.startswith("tests/")]  # fmt: skip
    if failed or broken:
        sys.exit(1)


if __name__ == "__main__":
    main()
