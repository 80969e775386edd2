"""A whole batch from its file: stopped in the middle, gone on with, and what a user is told."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import ray
from click.testing import Result

from conceptloom.batch import run as module
from conceptloom.batch.run import run_batch
from conceptloom.cli.cancelling import Stopped
from conceptloom.errors import InputError

PICTURES = """
device: cpu
pictures:
  - {prompts: ["a red circle"], seeds: [1, 2], settings: [{steps: 1}]}
"""


def rows_of(table: Path) -> list[str]:
    return [row["title"] for row in csv.DictReader(table.read_text().splitlines())]


def test_ctrl_c_keeps_what_is_done_and_the_same_command_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, out, run_jobs = tmp_path / "plan.yaml", tmp_path / "out", module.run_jobs
    file.write_text(PICTURES)

    def stopped_after_the_first(*given: Any, report: Callable[..., None], **more: Any) -> Any:
        def tell(event: str, *about: Any) -> None:
            report(event, *about)
            if event == "done":
                raise KeyboardInterrupt

        return run_jobs(*given, report=tell, **more)

    with monkeypatch.context() as patch:
        patch.setattr(module, "run_jobs", stopped_after_the_first)
        with pytest.raises(Stopped, match="the same command resumes"):
            run_batch(file, out)
    assert not ray.is_initialized()
    assert rows_of(out / "results.csv") == ["a red circle 1 steps 1"]

    outcome, table = run_batch(file, out)
    assert [len(jobs) for jobs in (outcome.done, outcome.reused)] == [1, 1]
    assert rows_of(table) == ["a red circle 1 steps 1", "a red circle 2 steps 1"]

    monkeypatch.setattr(module, "start_workers", None)  # nothing is left to do
    outcome, _ = run_batch(file, out)
    assert len(outcome.reused) == 2


def test_a_job_that_fails_is_reported_and_the_command_ends_with_1(
    command: Callable[..., Result], tmp_path: Path
) -> None:
    file = tmp_path / "plan.yaml"
    file.write_text(PICTURES.replace("a red circle", "a <stranger>"))
    result = command("batch", file, "--out", tmp_path / "out")
    assert result.exit_code == 1
    assert result.output.count("<stranger> is not a learned word here") == 2
    assert not ray.is_initialized()


def test_jobs_that_nobody_could_do_are_refused_before_anything_starts(tmp_path: Path) -> None:
    (tmp_path / "plan.yaml").write_text(PICTURES)
    with pytest.raises(InputError, match="--workers 1 or more"):
        run_batch(tmp_path / "plan.yaml", tmp_path / "out", workers=0)
