"""Results as JSON, the pages that are rendered from them, and README's table."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import run
from claims.all import topics
from harness import report
from harness.results import (
    PAGES,
    RESULTS,
    Claim,
    Column,
    Result,
    Section,
    Status,
    Table,
    bound,
    from_json,
    load_all,
    to_json,
)
from harness.subject import SUBJECTS

ROOT = Path(__file__).parents[3]
TABLE = Table(
    name="steps",
    columns=[
        Column(key="variant", title="", is_text=True),
        Column(key="ms", title="ms", digits=1),
        Column(key="bytes", title="bytes"),
        Column(key="likeness", title="likeness"),
    ],
    rows=[
        {"variant": "plain", "ms": 12.34, "bytes": 1234567, "likeness": {"mean": 0.5}},
        {"variant": "ours", "ms": None, "likeness": {"mean": 0.5, "gain": -0.2, "error": 0.05}},
        {"variant": "theirs", "likeness": {"gain": 0.1, "error": 0.05, "sure": True}},
    ],
)
RESULT = Result(
    page="small",
    title="Small",
    command="python benchmarks/run.py speed small",
    date="2026-01-01",
    machine="a test",
    versions={"torch": "2.0"},
    about=["What it is."],
    sections=[Section(table=TABLE, after="After."), Section(heading="More", text="Text.")],
    claims=[
        bound("It is fast", 1.049, at_most=1.05),
        bound("It is small", 2.0, at_most=1.05, why="too large"),
        Claim(says="It is like", measure="likeness", found=0.1, error=0.2, status=Status.UNSURE,
              needed=9),
    ],
    picture=("small.jpg", "A picture"),
)  # fmt: skip


def test_a_result_comes_back_from_its_file() -> None:
    again = from_json(to_json(RESULT))
    assert again == from_json(to_json(again))
    assert again.claims == RESULT.claims
    assert again.table("steps").value("plain", "ms") == 12.34
    assert report.page(again) == report.page(RESULT)
    with pytest.raises(LookupError, match="has no table"):
        again.table("step")
    with pytest.raises(LookupError, match="'ms' for 'their'"):
        again.table("steps").value("their", "ms")


def test_nothing_is_no_number_in_the_file() -> None:
    claim = Claim(says="open", found=math.nan, error=math.nan)
    (again,) = from_json(to_json(Result(**{**vars_of(RESULT), "claims": [claim]}))).claims
    assert (again.found, again.error) == (None, None)


def vars_of(result: Result) -> dict[str, object]:
    return {name: getattr(result, name) for name in Result.__dataclass_fields__}


def test_a_page_shows_figures_as_their_columns_say() -> None:
    lines = report.page(RESULT).splitlines()
    assert "2026-01-01, a test. torch 2.0." in lines
    assert "| plain | 12.3 | 1,234,567 | 0.50 |" in lines
    assert "| ours |  |  | 0.50 (**-0.20 ± 0.05**) |" in lines
    assert "| theirs |  |  | **+0.10 ± 0.05** |" in lines
    assert "| It is fast |  | 1.049 | at most 1.05 | met |  |" in lines
    assert "| It is small |  | 2 | at most 1.05 | **missed** |  |" in lines
    assert "| It is like | likeness | +0.10 ± 0.20 |  | not sure | 9 |" in lines
    assert lines.index("After.") < lines.index("## Claims") < lines.index("## More")
    assert "![A picture](small.jpg)" in lines


@pytest.mark.parametrize(
    ("limits", "found", "status"),
    [
        ({"at_most": 1.05}, 1.05, Status.MET),
        ({"at_most": 1.05}, 1.06, Status.MISSED),
        ({"at_least": 3}, 2.9, Status.MISSED),
        ({"at_least": 3}, 3.0, Status.MET),
        ({"at_least": 3}, None, Status.UNMEASURED),
    ],
)
def test_a_figure_keeps_its_limit_or_not(
    limits: dict[str, float], found: float | None, status: Status
) -> None:
    claim = bound("ours", found, why="slow", **limits)
    assert claim.status is status
    assert claim.why == ("slow" if status is Status.MISSED else "")


RESULT_FILES = sorted(RESULTS.glob("*.json"))


@pytest.mark.parametrize("path", RESULT_FILES, ids=lambda path: path.stem)
def test_no_page_is_behind_its_result(path: Path) -> None:
    result = from_json(path.read_text(encoding="utf-8"))
    assert result.page == path.stem
    page = PAGES / f"{result.page}.md"
    assert page.read_text(encoding="utf-8") == report.page(result), "python benchmarks/run.py pages"
    assert result.command
    assert result.date
    if result.picture:
        assert (PAGES / result.picture[0]).is_file()


@pytest.mark.parametrize("path", RESULT_FILES, ids=lambda path: path.stem)
def test_verdicts_agree_with_their_figures(path: Path) -> None:
    """Within the rounding of figures that were kept with two digits."""
    for claim in from_json(path.read_text(encoding="utf-8")).claims:
        found = claim.found
        if not isinstance(found, float | int) or claim.status is Status.UNMEASURED:
            continue
        if claim.error is None:
            kept = claim.at_most is None or found <= claim.at_most
            kept = kept and (claim.at_least is None or found >= claim.at_least)
            assert (claim.status is Status.MET) == kept, claim.says
        elif claim.status is not Status.UNSURE:
            sign = 1 if claim.status is Status.MET else -1
            rounding = 3 * 0.0051
            assert sign * (found + claim.margin) > 2 * claim.error - rounding, claim.says


def test_the_index_and_readmes_table_are_not_behind() -> None:
    made = load_all()
    index = report.index(SUBJECTS, made, run.BY_HAND)
    assert (PAGES / "README.md").read_text(encoding="utf-8") == index
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    table = "\n".join(report.summary(topics()))
    assert f"{report.BEGIN}\n{table}\n{report.END}" in readme


def test_readmes_table_is_put_between_its_marks(tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{report.BEGIN}\nold\n{report.END}\nafter\n")
    report.write_summary(["new", "lines"], readme)
    assert readme.read_text() == f"before\n{report.BEGIN}\nnew\nlines\n{report.END}\nafter\n"
