"""The tables of settings in the help pages and in docs/settings.md are what the code declares."""

from __future__ import annotations

import inspect
import re
import sys
from pathlib import Path

import pytest

from conceptloom.training.setting import settings_in

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


def test_the_reference_names_options_that_the_commands_have(tables):
    pytest.importorskip("typer")
    from conceptloom.cli.sample_command import sample_with_options
    from conceptloom.cli.transfer_command import transfer_with_options
    from conceptloom.cli.weave_command import weave_with_options

    built = {
        "sample": sample_with_options,
        "transfer": transfer_with_options,
        "weave": weave_with_options,
    }
    for section in tables.DRAWING:
        if not section.command:
            continue
        taken = set(inspect.signature(built[section.command]()).parameters)
        flags = [
            flag
            for one in settings_in(section.config)
            for flag in re.findall(r"--([\w-]+)", section.option(one))
        ]
        assert flags, section.title
        missing = [flag for flag in flags if flag.replace("-", "_") not in taken]
        assert not missing, f"{section.title}: {missing}"


def test_the_reference_shows_every_setting_of_drawing(tables):
    text = tables.reference()
    for name in ("quantile", "blend.start", "guidance.rule", "priority", "suppression", "keep"):
        listed = f"| `{name}` |" in text
        assert listed == (name != "keep"), name  # where features are stored is no setting
