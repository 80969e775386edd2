"""`conceptloom train-residuals`, and `sample --lag`."""

from __future__ import annotations

from pathlib import Path

import pytest

from conceptloom.cli import drawing
from conceptloom.concepts.concept_file import load_concept

from .quick import Command

QUICK = ("--steps", 2, "--batch-size", 1, "--preview-steps", 1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("residuals")


def test_learned_residuals_are_drawn_with_and_without_lag(
    command: Command, pictures: Path, folder: Path
) -> None:
    out = folder / "run"
    run_training = ("-i", pictures / "kitchen.png", "--handle", "my-toy", "--class", "mug")
    more = ("--rate", 0.3, "--ratio", 2, "--start", "gaussian", "--prompt", "my {}")
    result = command("train-residuals", *run_training, *QUICK, *more, "-o", out)
    assert result.exit_code == 0, result.output
    concept = load_concept(out / "concept.safetensors")
    assert concept.recipe["class_word"] == "mug"
    assert concept.recipe["learning_rate"] == 0.3
    assert concept.recipe["start"] == "gaussian"
    assert concept.recipe["prompt"] == "my {}"
    assert concept.recipe["resolution_px"] == 128  # TinyWorld's, whatever a photograph has
    assert {change.rank for change in concept.weights.values()} == {2}  # type: ignore[union-attr]
    assert {path.name for path in out.iterdir()} >= {"losses.csv", "samples.png", "attention.png"}
    drawn = {}
    for name, options in {
        "lag": ["--lag"],
        "plain": [],
        "none": ["--lag", "--quantile", "1"],
    }.items():
        file = folder / f"{name}.png"
        given = ("-c", out / "concept.safetensors", "--steps", 2, "-o", file)
        result = command("sample", *given, *options)
        assert result.exit_code == 0, result.output
        drawn[name] = file.read_bytes()
    assert len(set(drawn.values())) == 3
    result = command("sample", "-c", out / "concept.safetensors", "-p", "a mug", "--lag")
    assert result.exit_code == 2
    assert "No prompt contains <my-toy>" in result.output


def test_a_concept_file_is_read_once_with_lag_and_without(
    command: Command, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = folder / "run" / "concept.safetensors"
    read: list[Path] = []
    monkeypatch.setattr(
        drawing, "load_concept", lambda path: (read.append(path), load_concept(path))[1]
    )
    for more in ([], ["--lag"]):
        read.clear()
        given = ("-c", file, "--steps", 1, "-o", folder / "once.png")
        result = command("sample", *given, *more)
        assert result.exit_code == 0, result.output
        assert read == [file]


def test_lag_refuses_concepts_that_change_more(command: Command, learned: Path) -> None:
    result = command("sample", "-c", learned / "concept.safetensors", "-p", "<my-mug>", "--lag")
    assert result.exit_code == 2
    assert "with one handle" in result.output
