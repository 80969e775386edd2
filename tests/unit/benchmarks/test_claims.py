"""Claims are taken from results and real tests, and the page that lists them is not behind."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from claims.all import PAGE, TOPICS, claims_of, outcomes_of, refresh, result_of, topics, verdict_of
from claims.exact import EXACT, Exact
from harness.results import Claim, Result, Status, load, load_all, save

ROOT = Path(__file__).parents[3]
EVERY = [(topic, claim) for topic, exact in EXACT.items() for claim in exact]


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

    def status_of(*names: str) -> str:
        claim = Exact(says="exact", tests=tuple(f"tests/a.py::{name}" for name in names))
        return verdict_of(claim, outcomes)["status"]

    assert status_of("test_two") == "met"
    assert status_of("test_two", "test_one") == "missed"
    assert status_of("test_two", "test_three") == "not measured"
    assert status_of("test_four") == "not measured"


def test_a_page_that_was_not_measured_is_one_open_claim() -> None:
    (claim, source), *more = claims_of("Real sizes", {}, [])
    assert len(more) == 4
    assert (claim.status, source) == (Status.UNMEASURED, ["gpu"])


def test_claims_come_from_the_results_and_the_tests() -> None:
    fast = Claim(says="It is fast", found=1.0, status=Status.MET)
    slow = Claim(says="It is small", found=2.0, status=Status.MISSED, why="too large")
    made = Result(page="conceptlab_step", title="", command="", date="", machine="",
                  claims=[fast, slow])  # fmt: skip
    first, second = EXACT["ConceptLab"]
    rows = [
        {"topic": "ConceptLab", "says": first.says, "passed": 3, "failed": 0, "status": "met"},
        {"topic": "CLiC", "says": second.says, "passed": 3, "status": "met"},  # another topic's
    ]
    found = [claim for claim, _ in claims_of("ConceptLab", {"conceptlab_step": made}, rows)]
    assert found[:2] == [fast, slow]
    assert [claim.status for claim in found[2:]] == [
        Status.UNMEASURED, Status.MET, Status.UNMEASURED
    ]  # fmt: skip
    assert found[3].found == "3 passed"
    text = result_of({"conceptlab_step": made}, rows)
    assert text.table("counts").value("ConceptLab", "missed") == 1
    (missed,) = [section for section in text.sections if section.heading == "Missed"]
    assert missed.text == "* It is small: 2; too large."


@pytest.mark.parametrize(("topic", "claim"), EVERY, ids=[claim.says for _, claim in EVERY])
def test_the_tests_of_a_claim_exist(topic: str, claim: Exact) -> None:
    assert topic in TOPICS
    for name in claim.tests:
        file, _, test = name.partition("::")
        assert f"def {test}(" in (ROOT / file).read_text(encoding="utf-8"), name


def test_the_list_of_claims_is_not_behind_the_results() -> None:
    kept = load(PAGE)
    assert kept is not None
    again = result_of(load_all(), kept.cells)
    assert [s.table for s in again.sections if s.heading in TOPICS] == [
        s.table for s in kept.sections if s.heading in TOPICS
    ]
    counted = {row["topic"]: row for row in kept.table("counts").rows}
    for topic, claims in topics().items():
        for status in Status:
            number = sum(claim.status is status for claim in claims)
            assert counted[topic].get(status.value, 0) == number, (topic, status)


def test_the_list_follows_a_new_result_and_keeps_what_the_tests_said(tmp_path: Path) -> None:
    tests = [{"topic": "CLiC", "says": EXACT["CLiC"][0].says, "passed": 2, "status": "met"}]
    before = replace(result_of({}, tests), page=PAGE, date="2026-01-01", command="as before")
    save(before, tmp_path)
    fast = Claim(says="It is fast", found=1.0, status=Status.MET)
    made = Result(page="clic_step", date="2026-01-01", machine="a test", claims=[fast])
    save(made, tmp_path)
    refresh(tmp_path)
    after = load(PAGE, tmp_path)
    assert after is not None
    assert before.table("counts").value("CLiC", "met") == 1
    assert after.table("counts").value("CLiC", "met") == 2
    assert (after.date, after.command, after.cells) == ("2026-01-01", "as before", tests)


def test_every_result_with_claims_belongs_to_a_topic() -> None:
    known = {page for pages in TOPICS.values() for page in pages}
    with_claims = {page for page, result in load_all().items() if result.claims}
    assert {page.partition("@")[0] for page in with_claims} <= known
