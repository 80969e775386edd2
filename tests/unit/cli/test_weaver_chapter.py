"""Concept Weaver's chapter of the demo, in a few steps."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from conceptloom.cli.chapters import Stage, weaver
from conceptloom.cli.models import open_host
from conceptloom.host.ports import no_progress
from conceptloom.training.concept_file import load_concept


def test_the_chapter_tells_what_it_wove(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weaver, "TEACHING", replace(weaver.TEACHING, steps=1, batch_size=1))
    monkeypatch.setattr(weaver, "STEPS", 4)
    said: list[str] = []
    host = open_host(device="cpu")
    chapter = weaver.tell(Stage(host, tmp_path, no_progress, said.append))
    woven = chapter.pictures[-len(weaver.WAYS) :]
    assert {tuple(picture.image.shape) for picture in woven} == {(64, 64, 3)}
    assert all(picture.is_right is not None for picture in woven)
    assert chapter.table is not None
    assert [row[0] for row in chapter.table.rows] == list(weaver.WAYS)
    assert all(0 <= abs(float(row[1])) <= 1 for row in chapter.table.rows)
    assert load_concept(tmp_path / "my-split.safetensors").method == "personalized_residuals"
    assert len(said) == 4
