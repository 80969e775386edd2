"""`conceptloom invent` on a tiny model: results in a folder, and going on."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("typer")

from typer.testing import CliRunner

from conceptloom.cli import laboratory, models
from conceptloom.cli.app import app
from conceptloom.concepts.concept_file import load_concept

from ..tiny_models import tiny_host

ARGUMENTS = ["--of", "pet:2", "--of", "toy", "--not", "dog", "--prior", "none", "--vqa", "none"]


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "open_host", lambda *_, **__: tiny_host())
    monkeypatch.setattr(laboratory, "natural_size", lambda host: (32, 32))
    painter = laboratory.HostPainter
    monkeypatch.setattr(
        laboratory,
        "HostPainter",
        lambda host, *, steps, cfg, size: painter(host, steps=1, cfg=cfg, size=size),
    )


def test_a_concept_its_checkpoints_and_pictures_lie_in_the_folder(tmp_path: Path) -> None:
    command = ["invent", "my-pet", *ARGUMENTS, "--steps", "2", "--every", "1", "-o", str(tmp_path)]
    for _ in range(2):
        result = CliRunner().invoke(app, command)
        assert result.exit_code == 0, result.output
    concept = load_concept(tmp_path / "concept.safetensors")
    assert concept.names == ["my-pet"]
    assert concept.recipe["positives"] == ["pet", "toy"]
    assert concept.recipe["weights"] == [2.0, 1.0]
    early = load_concept(tmp_path / "checkpoints" / "000001.safetensors")
    assert early.recipe["checkpoint"] == 1
    for name in ("timeline.png", "samples.png", "similarity.png", "losses.csv"):
        assert (tmp_path / name).is_file()
    assert "dog" in result.output


@pytest.mark.parametrize("category", ["pet:much", "pet:nan", ":2"])
def test_a_weight_that_is_no_number_is_told(tmp_path: Path, category: str) -> None:
    result = CliRunner().invoke(app, ["invent", "my-pet", "--of", category, "-o", str(tmp_path)])
    assert result.exit_code == 2
