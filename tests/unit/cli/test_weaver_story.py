"""Concept Weaver's story of the demo, in a few steps."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from conceptloom.cli.demo import weaver
from conceptloom.cli.demo.story import DemoContext
from conceptloom.cli.models import open_host
from conceptloom.concepts.concept_file import load_concept
from conceptloom.host.ports import no_progress


def test_the_story_shows_what_it_wove(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weaver, "TEACHING", replace(weaver.TEACHING, steps=1, batch_size=1))
    monkeypatch.setattr(weaver, "STEPS", 4)
    lines: list[str] = []
    host = open_host(device="cpu")
    story = weaver.tell(DemoContext(host, tmp_path, no_progress, lines.append))
    section = story.sections[0]
    woven = [figure.samples[0] for figure in section.figures[-len(weaver.WAYS) :]]
    assert {tuple(sample.image.shape) for sample in woven} == {(64, 64, 3)}
    assert [sample.is_as_asked is not None for sample in woven] == [
        way == weaver.WEAVING for way in weaver.WAYS
    ]
    assert story.as_asked[1] == 1, "comparisons are shown, but not counted"
    assert section.table is not None
    assert [row[0] for row in section.table.rows] == list(weaver.WAYS)
    assert all(0 <= abs(float(row[1])) <= 1 for row in section.table.rows)
    assert load_concept(tmp_path / "my-split.safetensors").method == "personalized_residuals"
    assert len(lines) == 4
