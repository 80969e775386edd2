"""An `-o` that cannot be written is refused before any work, in words about that option."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from conceptloom.cli import models
from conceptloom.cli.picture_files import write_picture
from conceptloom.errors import StorageError
from conceptloom.training.reports import TensorBoardLog

from .quick import Command

FOLDERS = {
    "train": ("train", "-i", "a.png", "--mask", "my-a=a.png"),
    "train-residuals": ("train-residuals", "-i", "a.png", "--handle", "my-cat"),
    "invent": ("invent", "my-x", "toy"),
    "mix": ("mix", "my-x", "star:2", "ring"),
    "evolve": ("evolve", "my-x", "--of", "toy"),
    "demo": ("demo",),
    "batch": ("batch", "plan.yaml"),
}
FILES = {
    "sample": ("sample", "-p", "a toy"),
    "transfer": ("transfer", "-i", "a.png", "--mask", "a.png", "-p", "a toy"),
    "weave": ("weave", "a.png", "-s", "a toy", "-r", "toy=a.safetensors,a.png"),
}


@pytest.fixture(autouse=True)
def no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise AssertionError("a model was opened")

    monkeypatch.setattr(models, "open_host", fail)


def words(output: str) -> str:
    """Without the box that Typer draws around it."""
    return " ".join(output.replace("\u2502", " ").split())


@pytest.mark.parametrize("name", FOLDERS | FILES)
def test_a_place_below_a_file_is_refused_at_once(
    command: Command, tmp_path: Path, name: str
) -> None:
    (tmp_path / "file").touch()
    result = command(*(FOLDERS | FILES)[name], "-o", tmp_path / "file" / "x" / "y.png")
    told = words(result.output)
    assert result.exit_code == 2
    assert "'--out' / '-o'" in told
    assert "is not a folder" in told
    assert "ensor" not in told  # no word of TensorBoard


@pytest.mark.skipif(os.name == "nt", reason="rights of folders are not POSIX's")
@pytest.mark.parametrize("name", ["train", "sample"])
def test_a_place_without_rights_is_refused(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path)
    result = command(*(FOLDERS | FILES)[name], "-o", tmp_path / "out" / "x.png")
    assert result.exit_code == 2
    assert "writing is not allowed in" in words(result.output)


def test_without_the_option_the_users_own_folder_counts(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    told = words(command(*FOLDERS["train"]).output)
    assert "this folder is not writable" in told
    assert "Name another folder with -o" in told


def test_a_folder_is_no_picture(command: Command, tmp_path: Path) -> None:
    result = command(*FILES["sample"], "-o", tmp_path)
    assert result.exit_code == 2
    assert "it is a folder" in words(result.output)


def test_a_picture_that_cannot_be_written_is_reported_and_not_thrown(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="could not be written"):
        write_picture(torch.zeros(4, 4, 3), tmp_path / "file" / "x.png")


def test_a_log_that_cannot_be_written_stops_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("tensorboard")
    (tmp_path / "file").touch()
    with TensorBoardLog(tmp_path / "file" / "board") as board:
        assert not board.is_writing
        board.scalars({"step": 1, "total": 0.5})
    assert "no TensorBoard files for this run" in caplog.text
