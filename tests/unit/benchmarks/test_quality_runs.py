"""How quality benchmarks are asked, and what their pages tell to type."""

from __future__ import annotations

import pytest
from quality_runs import asked, command_of


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ([], ""),
        (["--seeds", "3"], ""),
        (["--quick", "--seeds", "1"], " --quick --seeds 1"),
        (["--report", "--part", "1/2", "--out", "page.md"], ""),
    ],
)
def test_a_page_tells_what_to_type_for_its_own_figures(
    given: list[str], told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["quality.py", *given])
    options = asked("quality", "About it.", "less", seeds=3)
    assert command_of("quality", options) == f"python benchmarks/quality.py{told}"


def test_what_is_not_asked_has_no_option(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["quality.py", "--quick"])
    options = asked("quality", "About it.", "less", divisible=False, keeps=False)
    assert command_of("quality", options) == "python benchmarks/quality.py --quick"
    assert not hasattr(options, "part")
    assert not hasattr(options, "report")
