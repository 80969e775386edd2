"""Claims are read off real pages and real tests, and the page that lists them is not behind."""

from __future__ import annotations

from pathlib import Path

import pytest
from claims import CLAIMS, Exact, Figure, Verdicts
from claims_read import Status, findings_of, judged, outcomes_of
from prove import PAGES, programs

ROOT = Path(__file__).parents[3]
EVERY = [claim for claims in CLAIMS.values() for claim in claims]
PAGE = """\
# A page

| step | of plain | |
|---|--:|---|
| plain | 1.00 | |
| ours | 1.049 | met |

## Elsewhere, 16x16

| step | of plain | |
|---|--:|---|
| ours | **1.2 ± 0.1** | better, but within the spread |
"""


@pytest.mark.parametrize(
    ("under", "most", "found", "status"),
    [("", 1.05, "1.049", Status.MET), ("", 1.04, "1.049", Status.MISSED),
     ("Elsewhere", 1.15, "1.2", Status.MISSED)],
)  # fmt: skip
def test_a_number_keeps_its_promise_or_not(
    under: str, most: float, found: str, status: Status, tmp_path: Path
) -> None:
    (tmp_path / "step.md").write_text(PAGE)
    claim = Figure(
        says="ours", page="step", row="ours", column="of plain", under=under, most=most, why="slow"
    )
    (finding,) = findings_of(claim, tmp_path, {})
    assert (finding.found, finding.status) == (found, status)
    assert finding.why == ("slow" if status is Status.MISSED else "")


def test_every_row_of_verdicts_is_a_claim(tmp_path: Path) -> None:
    (tmp_path / "step.md").write_text(PAGE)
    claim = Verdicts(says="beside plain", page="step", under="Elsewhere", labels=1, column="")
    (finding,) = findings_of(claim, tmp_path, {})
    assert finding.says == "beside plain: ours"
    assert finding.status is Status.OPEN


@pytest.mark.parametrize(
    ("verdict", "status"),
    [("the whole method is better", Status.MET), ("**the whole method is worse**", Status.MISSED),
     ("**not better** (within the spread)", Status.OPEN), ("met, after stepping down", Status.MET),
     ("**missed**: out of memory", Status.MISSED), ("not judged: not run", Status.UNKNOWN),
     ("no", Status.MISSED), ("**no difference that is sure**", Status.OPEN)],
)  # fmt: skip
def test_words_of_a_page(verdict: str, status: Status) -> None:
    assert judged(verdict) is status


def test_a_page_that_is_not_there_is_not_measured(tmp_path: Path) -> None:
    claim = Figure(says="ours", page="none", row="ours", column="of plain", most=1)
    (finding,) = findings_of(claim, tmp_path, {})
    assert finding.status is Status.UNKNOWN


def test_a_row_that_is_gone_is_reported(tmp_path: Path) -> None:
    (tmp_path / "step.md").write_text(PAGE)
    claim = Figure(says="theirs", page="step", row="theirs", column="of plain", most=1)
    with pytest.raises(LookupError, match=r"step\.md .* theirs"):
        list(findings_of(claim, tmp_path, {}))


def test_tests_count_case_by_case(tmp_path: Path) -> None:
    report = tmp_path / "report.xml"
    report.write_text(
        """<testsuites><testsuite>
        <testcase file="tests/a.py" name="test_one[x]"/>
        <testcase file="tests/a.py" name="test_one[y]"><failure/></testcase>
        <testcase file="tests/a.py" name="test_two"/>
        <testcase file="tests/a.py" name="test_three"><skipped/></testcase>
        </testsuite></testsuites>"""
    )
    outcomes = outcomes_of(report)

    def status_of(*names: str) -> Status:
        claim = Exact(says="exact", tests=tuple(f"tests/a.py::{name}" for name in names))
        (finding,) = findings_of(claim, tmp_path, outcomes)
        return finding.status

    assert status_of("test_two") is Status.MET
    assert status_of("test_two", "test_one") is Status.MISSED
    assert status_of("test_two", "test_three") is Status.UNKNOWN
    assert status_of("test_four") is Status.UNKNOWN


@pytest.mark.parametrize("claim", EVERY, ids=lambda claim: claim.says)
def test_what_a_claim_stands_on_is_there(claim: Figure | Verdicts | Exact) -> None:
    if isinstance(claim, Exact):
        for name in claim.tests:
            file, _, test = name.partition("::")
            assert f"def {test}(" in (ROOT / file).read_text(encoding="utf-8"), name
        return
    assert list(findings_of(claim, PAGES, {}))


def test_the_list_of_claims_is_not_behind_the_pages() -> None:
    told = (PAGES / "claims.md").read_text(encoding="utf-8")
    for claim in EVERY:
        if not isinstance(claim, Exact):
            for found in findings_of(claim, PAGES, {}):
                assert f"| {found.says} | {found.found} | {found.status.value} |" in told


def test_readmes_commands_are_programs_of_the_repository() -> None:
    known = programs()
    assert {"lag_cost", "beside_core", "tinyworld"} <= known.keys()
    for page, command in known.items():
        assert (PAGES / f"{page}.md").is_file()
        assert command[0] == "-m" or (ROOT / command[0]).is_file(), command
