"""The CSV file and the TensorBoard log."""

from __future__ import annotations

import logging
import math
import os
import sys
from pathlib import Path

import pytest

from conceptloom.errors import StorageError
from conceptloom.training import reports
from conceptloom.training.reports import TensorBoardLog, write_csv


def test_columns_stand_in_one_order_whatever_the_rows(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "loss.csv"
    rows = [
        {"prior": 0.5, "step": 1, "total": 0.1, "phase": 0},
        {"step": 2, "attention": math.nan, "total": 1 / 3, "phase": 1},
    ]
    write_csv(rows, path)
    assert path.read_bytes().decode() == (
        "step,phase,total,attention,prior\n1,0,0.1,,0.5\n2,1,0.3333333333333333,nan,\n"
    )
    write_csv(rows[:1], path)  # a shorter one replaces it whole
    assert path.read_text() == "step,phase,total,prior\n1,0,0.1,0.5\n"
    assert os.listdir(path.parent) == ["loss.csv"]


def test_no_steps_is_a_header(tmp_path: Path) -> None:
    write_csv([], tmp_path / "loss.csv")
    assert (tmp_path / "loss.csv").read_text() == "step,phase,total\n"


def test_a_full_disk_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "loss.csv"
    write_csv([], path)

    def full(number: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match="disk is full"):
        write_csv([{"step": 1, "total": 0.1}], path)
    assert path.read_text() == "step,phase,total\n"
    assert os.listdir(tmp_path) == ["loss.csv"]


@pytest.mark.skipif(os.name == "nt", reason="Windows has other rights")
def test_others_may_read_it_as_any_new_file(tmp_path: Path) -> None:
    write_csv([], tmp_path / "loss.csv")
    (tmp_path / "plain").touch()
    assert (tmp_path / "loss.csv").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_without_tensorboard_nothing_happens_and_one_line_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    monkeypatch.setattr(reports, "_reported", set())
    with caplog.at_level(logging.INFO, "conceptloom"):
        for _ in range(3):
            with TensorBoardLog(tmp_path) as board:
                board.scalars({"step": 1, "total": 0.1})
                assert not board.is_writing
    assert [record.getMessage().count("pip install tensorboard") for record in caplog.records] == [
        1
    ]
    assert not os.listdir(tmp_path)


def test_tensorboard_reads_back_what_was_written(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with TensorBoardLog(tmp_path) as board:
        assert board.is_writing
        for step in (1, 2):
            board.scalars({"step": step, "phase": 0, "total": 0.5 / step})
    assert not board.is_writing
    board.scalars({"step": 3, "total": 9.0})  # after closing: nothing
    read = EventAccumulator(str(tmp_path))
    read.Reload()
    assert [(e.step, e.value) for e in read.Scalars("loss/total")] == [(1, 0.5), (2, 0.25)]
    assert set(read.Tags()["scalars"]) == {"phase", "loss/total"}


def test_a_full_disk_ends_the_tensorboard_log_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Full:
        def add_scalar(self, *_: object) -> None:
            raise OSError(28, "No space left on device")

        close = add_scalar

    monkeypatch.setattr(reports, "_writer", lambda folder: Full())
    with TensorBoardLog(tmp_path) as board:
        board.scalars({"step": 1, "phase": 0, "total": 0.5})
        board.scalars({"step": 2, "phase": 0, "total": 0.5})
        assert not board.is_writing
    with TensorBoardLog(tmp_path) as board:
        board.close()
        assert not board.is_writing
    assert caplog.text.count("No space left on device") == 2
