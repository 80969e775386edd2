"""Every claim of the pack beside what was measured and tested.

Takes the claims out of the results, runs the tests that exact claims stand on (those of the nodes
inside of ComfyUI, if there is one), and counts which claims are met, missed or not sure.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

from harness.pytest_runner import host_python, passes
from harness.report import counts, found
from harness.results import (
    PAGES,
    RESULTS,
    Claim,
    Column,
    Result,
    Row,
    Section,
    Status,
    Table,
    load,
    load_all,
    save,
    stamp,
)
from harness.subject import Options, add_common_options

from .exact import EXACT, Exact
from .targets import TARGETS

PAGE = "claims"
# topic -> pages whose claims belong to it
TOPICS = {
    "Break-A-Scene": ("break_a_scene_step", "break_a_scene_quality"),
    "CLiC": ("blended_cost", "clic_step", "clic_quality", "clic_matching"),
    "Personalized Residuals and LAG": (
        "lag_cost",
        "residuals_step",
        "residuals_quality",
        "residuals_ablations",
    ),
    "Localised LoRAs": ("local_cost", "local_sdxl", "local_zimage"),
    "Anima": ("full_size_anima",),
    "Z-Image and Krea 2": (),
    "Concept Weaver": ("weave_cost", "weave_quality"),
    "ConceptLab": ("conceptlab_step", "conceptlab_quality"),
    "Both hosts": (),
    "TinyWorld": ("tinyworld",),
    "Torture": ("torture",),
    "Real sizes": ("gpu",),
}
UNMEASURED = {
    "local_cost": ("Localised LoRAs cost at most 1.15 of a plain step and 0.1 per LoRA",),
    "gpu": tuple(target.says for target in TARGETS),
}
MEANING = """\
*met*: the figure keeps what was promised, the gain is beyond two standard errors, or every test
passes and no case of it fails. *not sure*: the gain is within two standard errors. *missed*: the
figure or the gain says the opposite. *not measured*: what it needs is not here, or its tests were
not run yet."""
Outcomes = Mapping[str, Sequence[str]]  # "file::name" -> "passed", "failed" or "skipped" a case
Sourced = tuple[Claim, Sequence[str]]  # a claim, and its page or files of tests


def outcomes_of(report: Path) -> dict[str, list[str]]:
    """What a report of pytest (JUnit's form, family xunit1) says, by test."""
    cases: dict[str, list[str]] = {}
    for case in ElementTree.parse(report).iter("testcase"):
        name = f"{case.get('file')}::{(case.get('name') or '').partition('[')[0]}"
        broken = any(case.find(kind) is not None for kind in ("failure", "error"))
        left_out = case.find("skipped") is not None
        outcome = "failed" if broken else "skipped" if left_out else "passed"
        cases.setdefault(name, []).append(outcome)
    return cases


def run_tests() -> dict[str, list[str]]:
    """What the tests of all exact claims say."""
    names = sorted({n for exact in EXACT.values() for claim in exact for n in claim.tests})
    host, outcomes = host_python(), {}
    with tempfile.TemporaryDirectory() as place:
        for where, inside in ((None, False), (host, True)):
            chosen = [name for name in names if name.startswith("tests/host/") == inside]
            if inside and host is None:
                print("No ComfyUI found: its tests do not run.", file=sys.stderr)
                continue
            report = Path(place) / f"{inside}.xml"
            passes(chosen, f"--junitxml={report}", "-o", "junit_family=xunit1", host=where)
            if report.is_file():
                outcomes |= outcomes_of(report)
    return outcomes


def verdict_of(claim: Exact, outcomes: Outcomes) -> Row:
    """How many cases of a claim's tests passed, and what that says."""
    every = [outcome for name in claim.tests for outcome in outcomes.get(name, [])]
    ran = all("passed" in outcomes.get(name, []) for name in claim.tests)
    status = Status.MET if ran else Status.UNMEASURED
    if "failed" in every:
        status = Status.MISSED
    numbers = {kind: every.count(kind) for kind in ("passed", "failed", "skipped")}
    return {"says": claim.says, **numbers, "status": status.value}


def claims_of(topic: str, results: Mapping[str, Result], tests: Sequence[Row]) -> list[Sourced]:
    """All claims of a topic with their sources.

    Args:
        tests: what `verdict_of` said of the exact claims, in any order.
    """
    claims: list[Sourced] = []
    for page in TOPICS[topic]:
        if page in results:
            claims += [(claim, [page]) for claim in results[page].claims]
        else:
            claims += [(Claim(says=says), [page]) for says in UNMEASURED.get(page, (page,))]
    for exact in EXACT.get(topic, ()):
        row = next((row for row in tests if row["says"] == exact.says and _of(row, topic)), None)
        files = list(dict.fromkeys(name.partition("::")[0] for name in exact.tests))
        claims.append((_as_claim(exact, row), files))
    return claims


def _of(row: Row, topic: str) -> bool:
    return row.get("topic", topic) == topic


def _as_claim(exact: Exact, row: Row | None) -> Claim:
    if row is None:
        return Claim(says=exact.says)
    told = ", ".join(f"{row[k]} {k}" for k in ("passed", "failed", "skipped") if row.get(k))
    return Claim(says=exact.says, found=told, status=Status(str(row["status"])))


def topics(tests: Sequence[Row] | None = None) -> dict[str, list[Claim]]:
    """Topic -> its claims, from the results that are there."""
    kept = load(PAGE)
    known = tests if tests is not None else kept.cells if kept else ()
    results = load_all()
    return {topic: [c for c, _ in claims_of(topic, results, known)] for topic in TOPICS}


def refresh(folder: Path = RESULTS) -> None:
    """Bring the list up to date with the results; what the tests said stays as it was."""
    kept = load(PAGE, folder)
    if kept is not None:
        now = result_of(load_all(folder), kept.cells)
        save(replace(kept, about=now.about, sections=now.sections), folder)


def run(options: Options) -> Result:
    """Run the tests, unless only the report is wanted, and count."""
    kept = load(PAGE)
    if options.report or options.quick:
        tests: Sequence[Row] = kept.cells if kept else ()
    else:
        outcomes = run_tests()
        tests = [
            {"topic": topic, **verdict_of(claim, outcomes)}
            for topic, exact in EXACT.items()
            for claim in exact
        ]
    return result_of(load_all(), tests)


def result_of(results: Mapping[str, Result], tests: Sequence[Row]) -> Result:
    """The claims, topic by topic, and above them what is missed."""
    every = {topic: claims_of(topic, results, tests) for topic in TOPICS}
    numbers = {topic: counts(claim for claim, _ in claims) for topic, claims in every.items()}
    flat = [sourced for claims in every.values() for sourced in claims]
    total = counts(claim for claim, _ in flat)
    rows = [{"topic": topic, **counted} for topic, counted in numbers.items()]
    rows.append({"topic": "all", **total})
    columns = [Column(key="topic", title="", is_text=True)]
    columns += [Column(key=status.value, title=status.value) for status in Status]
    told = ", ".join(f"{number} {status}" for status, number in total.items())
    missed = [
        f"* {claim.says}{f' ({claim.measure})' if claim.measure else ''}: {found(claim)}; "
        f"{claim.why or 'see ' + ', '.join(_links(source))}."
        for claim, source in flat
        if claim.status is Status.MISSED
    ]
    sections = [Section(table=Table(name="counts", columns=columns, rows=rows))]
    sections += [Section(heading="Missed", text="\n".join(missed))] if missed else []
    sections += [
        Section(heading=topic, table=_table(topic, claims)) for topic, claims in every.items()
    ]
    return Result(
        **stamp("cpu"),
        about=[f"{len(flat)} claims: {told}. The date and machine of a figure are on its page.",
               MEANING],
        sections=sections, cells=list(tests),
    )  # fmt: skip


def _table(topic: str, claims: Sequence[Sourced]) -> Table:
    titles = {"claim": "claim", "found": "found", "verdict": "", "from": "from"}
    rows = [
        {
            "claim": f"{claim.says}{f', {claim.measure}' if claim.measure else ''}",
            "found": found(claim),
            "verdict": "**missed**" if claim.status is Status.MISSED else claim.status.value,
            "from": "<br>".join(_links(source)),
        }
        for claim, source in claims
    ]
    columns = [Column(key=key, title=title, is_text=True) for key, title in titles.items()]
    return Table(name=topic, columns=columns, rows=rows)


def _links(source: Sequence[str]) -> list[str]:
    """A page, or the files of tests."""
    links: list[str] = []
    for name in source:
        if name.endswith(".py"):
            links.append(f"[{Path(name).stem}](../../{name})")
        elif (PAGES / f"{name}.md").is_file():
            links.append(f"[{name}]({name}.md)")
        else:
            links.append(f"`{name}`")
    return links


def arguments(parser: argparse.ArgumentParser) -> None:
    add_common_options(parser)
    parser.add_argument("--report", action="store_true", help="run no test: as last found")
