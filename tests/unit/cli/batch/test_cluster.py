"""A real Ray cluster on this machine; a worker is killed in the middle of learning."""

from __future__ import annotations

import json
import os
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import ray
import torch

from conceptloom.cli.batch.cluster import Outcome, Worker, run_jobs, start_workers, stop_workers
from conceptloom.cli.batch.jobs import CONCEPT, Job, Kind, jobs_of
from conceptloom.cli.batch.plan import Plan
from conceptloom.cli.batch.python_worker import WORKPLACE, PythonWorker
from conceptloom.cli.batch.store import ResultStore
from conceptloom.cli.picture_files import write_picture

SETTINGS = {
    "token_steps": 40, "weight_steps": 1, "batch_size": 1, "class_draw": 1, "class_steps": 1,
    "save_every": 5, "preview_steps": 1, "scope": "kv",
}  # fmt: skip


@pytest.fixture(scope="module")
def workers() -> Iterator[list[Worker]]:
    makers = {
        name: (PythonWorker.kinds, partial(PythonWorker, "cpu")) for name in ("first", "second")
    }
    yield start_workers(makers)
    stop_workers()


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    folder = tmp_path / "scene"
    folder.mkdir()
    generator = torch.Generator().manual_seed(0)
    mask = torch.zeros(64, 64, 3)
    mask[16:48, 16:48] = 1
    write_picture(torch.rand(64, 64, 3, generator=generator), folder / "a.png")
    write_picture(mask, folder / "mask.png")
    entry = {"image": "a.png", "masks": {"my-mug": "mask.png"}}
    (folder / "scene.json").write_text(json.dumps({"pictures": [entry]}))
    # tmp_path differs from run to run, and so does the seed: no earlier test's work is found
    settings = {**SETTINGS, "seed": int(time.time()) % 2**31}
    row = {
        "prompts": ["a <my-mug>"],
        "concepts": ["mug"],
        "seeds": [1, 2],
        "settings": [{"steps": 1}],
    }
    return Plan.model_validate(
        {
            "concepts": {"mug": {"scene": "scene", "settings": settings}},
            "pictures": [row],
        }
    )


def work(jobs: list[Job], store: ResultStore, workers: list[Worker]) -> tuple[Outcome, list[str]]:
    events: list[str] = []
    outcome = run_jobs(
        jobs, store, workers, told=lambda event, job, worker: events.append(f"{event} {job.title}")
    )
    return outcome, events


def test_a_killed_worker_loses_nothing_and_nothing_is_done_twice(
    plan: Plan, tmp_path: Path, workers: list[Worker]
) -> None:
    jobs, store = jobs_of(plan, tmp_path), ResultStore(tmp_path / "out")
    states = Path(tempfile.gettempdir()) / WORKPLACE / jobs[0].key / "learned" / "state"
    pid = ray.get(workers[0].actor.pid.remote())  # the first job goes to the first worker
    found_state = threading.Event()

    def kill_once_a_state_is_saved() -> None:
        until = time.monotonic() + 120
        while time.monotonic() < until and not any(states.rglob("*.safetensors")):
            time.sleep(0.02)
        if any(states.rglob("*.safetensors")):
            found_state.set()
        os.kill(pid, signal.SIGKILL)

    threading.Thread(target=kill_once_a_state_is_saved, daemon=True).start()
    outcome, events = work(jobs, store, workers)
    assert found_state.is_set()
    assert events.count("started learn mug") == 2
    assert events.count("again learn mug") == 1
    assert [events.count(f"done {job.title}") for job in jobs] == [1, 1, 1]
    assert not outcome.failed
    assert all(store.has(job) for job in jobs)
    record = json.loads((store.folder(jobs[0]) / "job.json").read_text())
    assert record["attempts"] == 2
    assert not states.exists()

    # Undisturbed it learns the very same: the second try went on from the saved state.
    disturbed = store.file(jobs[0], CONCEPT).read_bytes()
    shutil.rmtree(store.folder(jobs[0]))
    again, events = work(jobs, store, workers)
    assert events == ["started learn mug", "done learn mug"]
    assert len(again.found) == 2
    assert store.file(jobs[0], CONCEPT).read_bytes() == disturbed


def test_what_was_done_before_is_not_done_again(
    plan: Plan, tmp_path: Path, workers: list[Worker]
) -> None:
    only = plan.model_copy(
        update={
            "concepts": {},
            "pictures": [
                plan.pictures[0].model_copy(update={"concepts": [], "prompts": ["a red circle"]})
            ],
        }
    )
    jobs, store = jobs_of(only, tmp_path), ResultStore(tmp_path / "out")
    first, _ = work(jobs, store, workers)
    assert len(first.done) == 2
    pictures = [store.file(job, "picture.png").read_bytes() for job in jobs]
    assert pictures[0] != pictures[1]
    second, events = work(jobs, store, workers)
    assert (len(second.done), len(second.found), events) == (0, 2, [])


def test_a_job_that_cannot_be_done_fails_once_and_the_rest_goes_on(
    plan: Plan, tmp_path: Path, workers: list[Worker]
) -> None:
    free = plan.pictures[0].model_copy(update={"concepts": [], "prompts": ["a red circle"]})
    wrong = plan.model_copy(update={"pictures": [*plan.pictures, free]})
    write_picture(torch.zeros(64, 64, 3), tmp_path / "scene" / "mask.png")  # nothing to learn
    jobs = jobs_of(wrong, tmp_path)
    outcome, events = work(jobs, ResultStore(tmp_path / "out"), workers)
    assert events.count("started learn mug") == 1
    assert "mask" in outcome.failed["learn mug"]
    assert [job.title for job in outcome.left] == ["a <my-mug> 1", "a <my-mug> 2"]
    assert sorted(job.title for job in outcome.done) == ["a red circle 1", "a red circle 2"]
    assert jobs[0].kind is Kind.LEARN
