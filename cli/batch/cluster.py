"""The jobs of a batch over Ray actors: whatever happens to a worker, each job is done once."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import ray
from ray.exceptions import RayActorError, RayTaskError

from ...errors import ConceptLoomError
from .jobs import CONCEPT, Job, Kind
from .store import ResultStore

LOOKS_EVERY = 1.0  # seconds in which a Ctrl-C is heard


class Performer(Protocol):
    """What does jobs in a worker's process: see `python_worker` and `comfyui_worker`."""

    kinds: Sequence[Kind]

    def perform(
        self, kind: Kind, key: str, spec: Mapping[str, Any], files: Mapping[str, bytes]
    ) -> dict[str, bytes]: ...


class _Process:
    """A Ray actor around a performer, which is made where it works."""

    def __init__(self, make: Callable[[], Performer]) -> None:
        self._performer = make()

    def pid(self) -> int:
        return os.getpid()

    def perform(self, *job: Any) -> tuple[dict[str, bytes], float]:
        began = time.monotonic()
        return self._performer.perform(*job), time.monotonic() - began


@dataclass
class Worker:
    """A place where jobs are done, in a process of its own."""

    name: str
    kinds: Sequence[Kind]
    start: Callable[[], Any]  # a new actor
    actor: Any = None

    def __post_init__(self) -> None:
        self.actor = self.start()

    def start_again(self) -> None:
        """A new process in place of one that died.

        (Ray could restart the old actor, but refuses its tasks until that is up.)
        """
        self.actor = self.start()


@dataclass
class Outcome:
    """What became of a batch."""

    done: list[Job] = field(default_factory=list)
    found: list[Job] = field(default_factory=list)  # done by an earlier run
    failed: dict[str, str] = field(default_factory=dict)  # title -> why
    left: list[Job] = field(default_factory=list)  # need a result that failed


Told = Callable[[str, Job, str], None]  # "started" | "done" | "again" | "failed", job, worker


def start_workers(
    makers: Mapping[str, tuple[Sequence[Kind], Callable[[], Performer]]],
    *,
    address: str | None = None,
    gpus: float = 0.0,
) -> list[Worker]:
    """One worker for each maker, on this machine or on the cluster at an address.

    Args:
        makers: name -> (kinds of jobs, what makes its performer).
        address: of a Ray cluster, "auto" for the one that this machine belongs to; None starts one
            for this run alone.
        gpus: that each worker has for itself; a share below 1 lets several use one.
    """
    local = {"num_cpus": len(makers), "include_dashboard": False} if address is None else {}
    ray.init(address=address, log_to_driver=False, logging_level="ERROR", **local)
    process = ray.remote(num_cpus=1, num_gpus=gpus)(_Process)
    return [
        Worker(name, kinds, partial(process.remote, make)) for name, (kinds, make) in makers.items()
    ]


def stop_workers() -> None:
    """End all workers of this run; a cluster that was there before stays."""
    ray.shutdown()


def run_jobs(
    jobs: Sequence[Job],
    store: ResultStore,
    workers: Sequence[Worker],
    *,
    retries: int = 2,
    told: Told = lambda event, job, worker: None,
) -> Outcome:
    """Do every job whose result is not there yet; results are kept as they come.

    A job whose worker dies, or fails in a way that may pass, goes to a worker again; one that
    cannot be done as it is asked (`ConceptLoomError`) does not. Jobs that need its result are left.

    Args:
        retries: further tries for each job.
        told: hears of every start and end; may raise, then nothing that is kept is lost.
    """
    outcome = Outcome(found=[job for job in jobs if store.has(job)])
    finished = {job.key for job in outcome.found}
    waiting = list({job.key: job for job in jobs if job.key not in finished}.values())
    tries: dict[str, int] = {}
    running: dict[Any, tuple[Job, Worker]] = {}
    while waiting or running:
        busy = {worker.name for _, worker in running.values()}
        for worker in (each for each in workers if each.name not in busy):
            job = next((j for j in waiting if _can_start(j, worker, finished)), None)
            if job is None:
                continue
            waiting.remove(job)
            tries[job.key] = tries.get(job.key, 0) + 1
            told("started", job, worker.name)
            files = _contents(job, store)
            handed = worker.actor.perform.remote(job.kind, job.key, job.spec, files)
            running[handed] = job, worker
        if not running:
            outcome.left = waiting  # nothing that is left can ever start
            break
        for handed in ray.wait(list(running), num_returns=1, timeout=LOOKS_EVERY)[0]:
            job, worker = running.pop(handed)
            try:
                result, seconds = ray.get(handed)
            except (RayActorError, RayTaskError) as error:
                cause = error.cause if isinstance(error, RayTaskError) else error
                if isinstance(error, RayActorError):
                    worker.start_again()
                if isinstance(cause, ConceptLoomError) or tries[job.key] > retries:
                    outcome.failed[job.title] = _reason(cause)
                    told("failed", job, worker.name)
                else:
                    waiting.insert(0, job)
                    told("again", job, worker.name)
                continue
            about = {"attempts": tries[job.key], "seconds": round(seconds, 2)}
            store.keep(job, result, about)
            finished.add(job.key)
            outcome.done.append(job)
            told("done", job, worker.name)
    return outcome


def _can_start(job: Job, worker: Worker, finished: set[str]) -> bool:
    return job.kind in worker.kinds and all(n.key in finished for n in job.needs.values())


def _contents(job: Job, store: ResultStore) -> dict[str, bytes]:
    """All files that a job works on: workers on other machines do not see this disk."""
    made: dict[str, Path] = {name: store.file(n, CONCEPT) for name, n in job.needs.items()}
    return {name: path.read_bytes() for name, path in {**job.files, **made}.items()}


def _reason(cause: BaseException) -> str:
    text = str(cause).strip() or type(cause).__name__
    return text if isinstance(cause, ConceptLoomError) else f"{type(cause).__name__}: {text}"
