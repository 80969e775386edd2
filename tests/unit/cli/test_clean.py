"""`conceptloom clean`: states go, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from .quick import Command

KEY = "0123456789abcdef" * 2


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """The folder of a run with three states, half of a fourth, and what else may lie there."""
    folder = tmp_path / "runs" / "my-mug" / "state" / KEY
    folder.mkdir(parents=True)
    for step in (50, 100, 150):
        (folder / f"state-{step:08d}.safetensors").write_bytes(bytes(2**20))
    (folder / ".0123456789abcdef.part").write_bytes(bytes(2**20))
    for other in ("losses.csv", "class-latents.safetensors", "state-1.txt"):
        (folder / other).write_text("kept")
    (folder.parents[1] / "concept.safetensors").write_text("kept")
    elsewhere = tmp_path / "runs" / "state-00000001.safetensors"  # in no run's folder
    elsewhere.write_text("kept")
    return folder


def names(folder: Path) -> set[str]:
    return {
        file.name for file in folder.iterdir() if "state-0" in file.name or file.suffix == ".part"
    }


def test_all_but_the_newest_state_go(command: Command, tmp_path: Path, run: Path) -> None:
    before = sorted(tmp_path.rglob("*"))
    told = command("clean", tmp_path / "runs", "--dry-run")
    assert told.exit_code == 0, told.output
    assert "would remove 3 files, 3.0 MiB, 1.0 MiB remain" in told.output
    assert sorted(tmp_path.rglob("*")) == before
    result = command("clean", tmp_path / "runs")
    assert "removed 3 files, 3.0 MiB, 1.0 MiB remain" in result.output
    assert names(run) == {"state-00000150.safetensors"}
    assert len(before) - len(list(tmp_path.rglob("*"))) == 3


def test_all_of_them_go_when_asked_for(command: Command, tmp_path: Path, run: Path) -> None:
    result = command("clean", "--all", tmp_path / "runs")
    assert "4.0 MiB are freed" in result.output
    assert names(run) == set()
    kept = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert all(file.read_text() == "kept" for file in kept)
    assert len(kept) == 5


def test_a_folder_that_is_not_there_is_reported(command: Command, tmp_path: Path) -> None:
    result = command("clean", tmp_path / "nowhere")
    assert result.exit_code == 2
    assert "There is no folder" in " ".join(result.output.split())
