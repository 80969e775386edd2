"""The page of torture hides no suite that broke before it wrote anything down."""

from __future__ import annotations

import json

from claims.torture import last_rows, result_of
from harness.report import page
from harness.results import Status

ROW = {"area": "files/concept", "cases": 40, "failures": []}


def test_failures_are_counted_and_reported_in_words() -> None:
    failing = {"area": "nodes/Load", "cases": 2, "failures": ["a traceback"]}
    result = result_of([ROW, failing], [], 1)
    text = page(result)
    statuses = [claim.status for claim in result.claims]
    assert statuses == [Status.MISSED, *[Status.MET] * 4]
    assert "| files torn byte by byte | 40 | 0 |" in text
    assert "| nodes fed with bad input | 2 | 1 |" in text
    assert "- a traceback" in text
    assert "Not passed" not in text


def test_a_suite_that_did_not_pass_is_reported_even_without_a_failing_case() -> None:
    text = page(result_of([ROW], ["tests/host/torture"], 1))
    assert "**Not passed, so that cases may be missing: tests/host/torture.**" in text


def test_a_part_tried_again_replaces_what_it_found_before() -> None:
    mended = {"area": "stops/LAG", "cases": 12, "failures": []}
    rows = [mended | {"failures": ["lost"]}, ROW, mended]
    assert last_rows(map(json.dumps, rows)) == [mended, ROW]
