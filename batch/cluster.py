"""Runs the jobs of a batch on workers; each job completes once, even if workers die."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from ..errors import ConceptLoomError
from .jobs import CONCEPT, Job, ServerClosed, ServerLost
from .store import ResultStore
from .workers import Worker

LOOKS_EVERY = 1.0  # seconds in which a Ctrl-C is heard


@dataclass
class Outcome:
    """The outcome of a batch."""

    done: list[Job] = field(default_factory=list)
    reused: list[Job] = field(default_factory=list)  # done by an earlier run
    failed: list[tuple[Job, str]] = field(default_factory=list)  # and why
    left: list[Job] = field(default_factory=list)  # need a result that failed


Report = Callable[[str, Job, str], None]  # "started" | "done" | "again" | "failed", job, worker


def run_jobs(
    jobs: Sequence[Job],
    store: ResultStore,
    workers: Sequence[Worker],
    *,
    retries: int = 2,
    report: Report = lambda event, job, worker: None,
) -> Outcome:
    """Run every job without a stored result; store each result at once.

    A job is retried if its worker dies or a temporary error occurs, but not after a user error
    (`ConceptLoomError`); jobs that need its result are then skipped. A worker with an unresponsive
    server pauses; after more than `retries` pauses in a row it gets no more jobs.

    Args:
        retries: further tries for each job.
        report: called at every start and end; may raise; stored results remain.
    """
    run = _Run(jobs, store, list(workers), retries, report)
    run.do_all()
    return run.outcome


class _Run:
    """One call of `run_jobs`."""

    def __init__(
        self, jobs: Sequence[Job], store: ResultStore, workers: list[Worker], retries: int,
        report: Report,
    ) -> None:  # fmt: skip
        self._store, self._workers, self._retries, self._report = store, workers, retries, report
        self.outcome = Outcome(reused=[job for job in jobs if store.has(job)])
        self._finished = {job.key for job in self.outcome.reused}
        unique = {job.key: job for job in jobs if job.key not in self._finished}
        self._waiting, self._tries = list(unique.values()), Counter[str]()
        self._running: dict[Any, tuple[Job, Worker]] = {}
        self._lost = "there is none for it"  # why the last place was

    def do_all(self) -> None:
        while self._running or self._is_wanted():
            self._hand_out()
            if not self._running:
                time.sleep(LOOKS_EVERY)  # all who could are resting or starting
                continue
            for handed in ray.wait(list(self._running), num_returns=1, timeout=LOOKS_EVERY)[0]:
                self._take_in(handed)
        for job in self._waiting:
            if self._can_start(job):
                self.outcome.failed.append((job, f"no worker is left: {self._lost}"))
            else:
                self.outcome.left.append(job)

    def _is_wanted(self) -> bool:
        """Whether a worker can do any remaining job, now or when it is ready."""
        return any(self._next_for(worker) for worker in self._workers)

    def _next_for(self, worker: Worker) -> Job | None:
        return next(
            (j for j in self._waiting if j.kind in worker.kinds and self._can_start(j)), None
        )

    def _can_start(self, job: Job) -> bool:
        return all(need.key in self._finished for need in job.needs.values())

    def _hand_out(self) -> None:
        """Assign a job to every idle worker."""
        busy = {worker.name for _, worker in self._running.values()}
        for worker in self._workers:
            if worker.name in busy or not (job := self._next_for(worker)) or not worker.is_ready:
                continue
            self._waiting.remove(job)
            self._tries[job.key] += 1
            self._report("started", job, worker.name)
            files = _contents(job, self._store)
            handed = worker.actor.perform.remote(job.kind, job.key, job.spec, files)
            self._running[handed] = job, worker

    def _take_in(self, handed: Any) -> None:
        """Store the result of a worker's job."""
        job, worker = self._running.pop(handed)
        try:
            result, seconds = ray.get(handed)
        except RayError as error:
            cause = error.cause if isinstance(error, RayTaskError) else error
            if cause is error:  # the process itself, or its machine
                worker.start_again()
            self._failed(job, worker, cause)
            return
        worker.lost = 0
        about = {"attempts": self._tries[job.key], "seconds": round(seconds, 2)}
        self._store.keep(job, result, about)
        self._finished.add(job.key)
        self.outcome.done.append(job)
        self._report("done", job, worker.name)

    def _failed(self, job: Job, worker: Worker, cause: BaseException) -> None:
        if isinstance(cause, ServerLost):
            worker.rest()
            self._lost = _reason(cause)
            if worker.lost > self._retries:
                self._workers.remove(worker)
        if isinstance(cause, ServerClosed):
            self._tries[job.key] -= 1
        if isinstance(cause, ConceptLoomError) or self._tries[job.key] > self._retries:
            self.outcome.failed.append((job, _reason(cause)))
            self._report("failed", job, worker.name)
        else:
            self._waiting.insert(0, job)
            self._report("again", job, worker.name)


def _contents(job: Job, store: ResultStore) -> dict[str, bytes]:
    """All files of a job: workers on other machines cannot read this disk."""
    made: dict[str, Path] = {name: store.file(n, CONCEPT) for name, n in job.needs.items()}
    return {name: path.read_bytes() for name, path in {**job.files, **made}.items()}


def _reason(cause: BaseException) -> str:
    text = str(cause).strip() or type(cause).__name__
    is_told = isinstance(cause, (ConceptLoomError, ServerLost))
    return text if is_told else f"{type(cause).__name__}: {text}"
