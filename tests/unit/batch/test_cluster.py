"""A real Ray cluster on this machine; a worker is killed in the middle of learning."""

from __future__ import annotations

import json
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
import ray
import torch

from conceptloom.batch import workers as started
from conceptloom.batch.cluster import Outcome, run_jobs
from conceptloom.batch.jobs import CONCEPT, Job, JobKind, ServerClosed, ServerLost, jobs_of
from conceptloom.batch.plan import Plan
from conceptloom.batch.python_worker import PythonWorker, workplace
from conceptloom.batch.store import ResultStore
from conceptloom.batch.workers import Maker, Worker, check_room, start_workers, stop_workers
from conceptloom.cli.picture_files import write_picture
from conceptloom.errors import ConfigError, InputError

SETTINGS = {
    "token_steps": 40, "weight_steps": 1, "batch_size": 1, "class_draw": 1, "class_steps": 1,
    "save_every": 5, "preview_steps": 1, "scope": "kv",
}  # fmt: skip


@pytest.fixture(scope="module")
def workers() -> Iterator[list[Worker]]:
    makers = {
        name: Maker(PythonWorker.kinds, partial(PythonWorker, "cpu"))
        for name in ("first", "second")
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


def acting(name: str, act: Callable[[dict], dict[str, bytes]], **needs: float) -> Worker:
    """A worker for workflows whose jobs are calls of a function with what they ask for."""

    class Performer:
        kinds = (JobKind.WORKFLOW,)

        def perform(self, kind: object, key: object, spec: dict, files: object) -> dict:
            return act(spec)

    process = ray.remote(**{"num_cpus": 0, **needs})(started._Process)
    return Worker(name, Performer.kinds, partial(process.remote, Performer))


def numbered(count: int) -> list[Job]:
    return [Job(JobKind.WORKFLOW, "a job", {"number": n}) for n in range(count)]


def work(jobs: list[Job], store: ResultStore, workers: list[Worker]) -> tuple[Outcome, list[str]]:
    events: list[str] = []
    outcome = run_jobs(
        jobs,
        store,
        workers,
        report=lambda event, job, worker: events.append(f"{event} {job.title}"),
    )
    return outcome, events


def holds_a_state(folder: Path) -> bool:
    """`os.walk`, unlike `Path.rglob`, bears folders that vanish while it looks."""
    names = (name for _, _, files in os.walk(folder) for name in files)
    return any(name.endswith(".safetensors") for name in names)


def test_a_killed_worker_loses_nothing_and_nothing_is_done_twice(
    plan: Plan, tmp_path: Path, workers: list[Worker]
) -> None:
    jobs, store = jobs_of(plan, tmp_path), ResultStore(tmp_path / "out")
    states = workplace(jobs[0].key) / "learned" / "state"
    pid = ray.get(workers[0].actor.pid.remote())  # the first job goes to the first worker
    found_state = threading.Event()

    def kill_once_a_state_is_saved() -> None:
        until = time.monotonic() + 120
        while time.monotonic() < until and not found_state.is_set():
            time.sleep(0.02)
            if holds_a_state(states):
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
    assert len(again.reused) == 2
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
    assert (len(second.done), len(second.reused), events) == (0, 2, [])


def test_a_job_that_cannot_be_done_fails_once_and_the_rest_goes_on(
    plan: Plan, tmp_path: Path, workers: list[Worker]
) -> None:
    free = plan.pictures[0].model_copy(update={"concepts": [], "prompts": ["a red circle"]})
    wrong = plan.model_copy(update={"pictures": [*plan.pictures, free]})
    write_picture(torch.zeros(64, 64, 3), tmp_path / "scene" / "mask.png")  # nothing to learn
    jobs = jobs_of(wrong, tmp_path)
    outcome, events = work(jobs, ResultStore(tmp_path / "out"), workers)
    assert events.count("started learn mug") == 1
    ((failed, why),) = outcome.failed
    assert failed is jobs[0]
    assert "mask" in why
    titles = [f"{prompt} {seed} steps 1" for prompt in ("a <my-mug>", "a red circle")
              for seed in (1, 2)]  # fmt: skip
    assert [job.title for job in outcome.left] == titles[:2]
    assert sorted(job.title for job in outcome.done) == titles[2:]
    assert jobs[0].kind is JobKind.LEARN


def test_a_dead_server_leaves_its_jobs_to_the_others(
    tmp_path: Path, workers: list[Worker], monkeypatch: pytest.MonkeyPatch
) -> None:
    def closed(spec: dict) -> dict[str, bytes]:
        raise ServerClosed("does not answer")

    def slow(spec: dict) -> dict[str, bytes]:
        time.sleep(1)
        return {"made": b"here"}

    monkeypatch.setattr(started, "RESTS", 0.1)
    jobs, store = numbered(6), ResultStore(tmp_path)
    outcome, events = work(jobs, store, [acting("dead", closed), acting("alive", slow)])
    assert (len(outcome.done), outcome.failed) == (6, [])
    assert events.count("again a job") == 3  # then it is not asked any more


def test_where_every_server_is_dead_the_batch_ends_and_says_why(
    tmp_path: Path, workers: list[Worker], monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost(spec: dict) -> dict[str, bytes]:
        raise ServerClosed("nobody there")

    monkeypatch.setattr(started, "RESTS", 0.01)
    jobs = numbered(2)
    outcome, _ = work(jobs, ResultStore(tmp_path), [acting("dead", lost)])
    assert [job for job, _ in outcome.failed] == jobs
    assert all("no worker is left: nobody there" in why for _, why in outcome.failed)


def test_a_job_that_ends_its_server_is_not_tried_for_ever(
    tmp_path: Path, workers: list[Worker], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fragile(spec: dict) -> dict[str, bytes]:
        if spec["number"] == 0:
            raise ServerLost("gone in the middle")
        return {}

    monkeypatch.setattr(started, "RESTS", 0.01)
    two = [acting(name, fragile) for name in ("one", "other")]
    outcome, events = work(numbered(8), ResultStore(tmp_path), two)
    assert [job.spec["number"] for job, _ in outcome.failed] == [0]
    assert events.count("again a job") == 2
    assert len(outcome.done) == 7


def test_wrong_settings_are_reported_once_for_every_job(
    tmp_path: Path, workers: list[Worker]
) -> None:
    def refuse(spec: dict) -> dict[str, bytes]:
        raise ConfigError("steps", spec["number"], "1 or more")

    outcome, events = work(numbered(2), ResultStore(tmp_path), [acting("strict", refuse)])
    told = sorted(why for _, why in outcome.failed)
    assert told == ["steps is 0; it must be 1 or more.", "steps is 1; it must be 1 or more."]
    assert events.count("started a job") == 2


def test_a_process_that_ray_ends_for_lack_of_memory_is_replaced(
    tmp_path: Path, workers: list[Worker], monkeypatch: pytest.MonkeyPatch
) -> None:
    get, ended = ray.get, iter([ray.exceptions.OutOfMemoryError("no memory")])

    def flaky(handed: object) -> object:
        if error := next(ended, None):
            raise error
        return get(handed)

    worker = acting("only", lambda spec: {"pid": str(os.getpid()).encode()})
    before = get(worker.actor.pid.remote())
    monkeypatch.setattr(ray, "get", flaky)
    (job,) = jobs = numbered(1)
    store = ResultStore(tmp_path)
    _, events = work(jobs, store, [worker])
    assert events == ["started a job", "again a job", "started a job", "done a job"]
    assert int(store.file(job, "pid").read_text()) != before


def test_a_worker_without_room_keeps_no_job_from_the_others(
    tmp_path: Path, workers: list[Worker]
) -> None:
    def quick(spec: dict) -> dict[str, bytes]:
        return {}

    both = [acting("without", quick, num_gpus=1), acting("with", quick)]
    outcome, _ = work(numbered(3), ResultStore(tmp_path), both)
    assert len(outcome.done) == 3


def test_more_gpus_than_there_are_and_unknown_clusters_are_refused(workers: list[Worker]) -> None:
    assert os.environ["RAY_USAGE_STATS_ENABLED"] == "0"
    maker = Maker(PythonWorker.kinds, PythonWorker, gpus=64)
    with pytest.raises(InputError, match="'greedy' needs 1 core and 64 GPU"):
        check_room({"greedy": maker})
