"""The page of torture hides no suite that broke before it wrote anything down."""

from __future__ import annotations

import json
from dataclasses import replace

from claims.torture import last_rows, result_of
from harness.report import page
from harness.results import Status

ROW = {"area": "files/concept", "cases": 40, "failures": []}


def test_failures_are_counted_and_reported_in_words() -> None:
    failing = {"area": "nodes/Load", "cases": 2, "failures": ["a traceback"]}
    result = result_of([ROW, failing], [], 1)
    text = page(result)
    statuses = [claim.status for claim in result.claims]
    unmeasured = [Status.UNMEASURED] * (len(statuses) - 3)
    assert statuses == [Status.MISSED, Status.UNMEASURED, Status.MET, *unmeasured]
    assert "| files torn byte by byte | 40 | 0 | 20" in text
    assert "| nodes fed with bad input | 2 | 1 | 20" in text
    assert "- a traceback" in text
    assert "Not passed" not in text


def test_a_suite_that_did_not_pass_is_reported_even_without_a_failing_case() -> None:
    text = page(result_of([ROW], ["tests/host/torture"], 1))
    assert "**Not passed, so that cases may be missing: tests/host/torture.**" in text


def test_a_part_tried_again_replaces_its_earlier_row() -> None:
    mended = {"area": "stops/LAG", "cases": 12, "failures": []}
    rows = [mended | {"failures": ["lost"]}, ROW, mended]
    assert last_rows(map(json.dumps, rows)) == [mended, ROW]


def test_a_part_leaves_the_rest_as_it_was_measured() -> None:
    before = replace(result_of([ROW], [], 2), date="2020-01-02")
    for row in before.table("areas").rows:
        row.pop("date", None)
    loras = {"area": "loras/unet, names", "cases": 7, "failures": []}
    result = result_of([loras], [], 2, before)
    areas = result.table("areas")
    assert areas.value("files torn byte by byte", "date") == "2020-01-02"
    assert areas.value("files torn byte by byte", "cases") == 40
    assert areas.value("LoRA files of every kind changed at random", "cases") == 7
    assert result.table("loras").rows == [{"what": "unet, names", "cases": 7, "failing": 0}]
    assert [claim.status for claim in result.claims].count(Status.MET) == 2
