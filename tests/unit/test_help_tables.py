"""The tables of settings in the help pages and in docs/settings.md are what the code declares."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"


@pytest.fixture
def tables(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(SCRIPTS))
    import help_tables

    yield help_tables
    del sys.modules["help_tables"]


def test_no_table_of_settings_is_stale(tables):
    """Run scripts/make-help when this fails."""
    stale = [
        path.name
        for path, text in tables.files().items()
        if path.read_text(encoding="utf-8") != text
    ]
    assert not stale


def test_a_page_without_marks_is_reported(tables, tmp_path: Path):
    page = tmp_path / "page.md"
    page.write_text("# A node", encoding="utf-8")
    with pytest.raises(ValueError, match=r"page\.md has no place for its settings"):
        tables._filled(page, "| a |")
    page.write_text(f"before {tables.BEGIN} old {tables.END} after", encoding="utf-8")
    made = tables._filled(page, "| a |")
    assert made.startswith("before ")
    assert made.endswith(" after")
    assert "| a |" in made
    assert "old" not in made
