"""A batch from its file to its results, with one line of progress."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ..cli.cancelling import Stopped
from ..cli.console import console
from ..errors import InputError
from .cluster import Outcome, run_jobs
from .comfyui_worker import ComfyUIWorker
from .jobs import Job, JobKind, jobs_of
from .plan import Plan, read_plan
from .python_worker import PythonWorker
from .store import ResultStore
from .workers import Maker, start_workers, stop_workers


def run_batch(
    file: Path,
    out: Path,
    *,
    workers: int = 1,
    servers: Sequence[str] = (),
    address: str | None = None,
    gpus: float = 0.0,
    retries: int = 2,
) -> tuple[Outcome, Path]:
    """Run all unfinished jobs of a batch; returns the outcome and the table of results.

    Args:
        file: see `batch.plan`.
        out: folder of the results, one for each job.
        workers: in plain Python, for concepts and pictures.
        servers: addresses of headless ComfyUIs, for workflows.
        address: see `start_workers`.
        gpus: for each worker in plain Python; servers have their own.
        retries: see `run_jobs`.

    Raises:
        InputError: the file is not a batch, or no worker can do one of its jobs.
        Stopped: the user pressed Ctrl-C; results are kept.
    """
    plan = read_plan(file)
    jobs, store = jobs_of(plan, file.parent), ResultStore(out)
    makers = _makers(plan, workers, gpus, servers)
    _check(jobs, makers)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as bars:
        keys = {job.key for job in jobs}
        known = {job.key for job in jobs if store.has(job)}
        task = bars.add_task("starting", total=len(keys), completed=len(known))

        def show(event: str, job: Job, worker: str) -> None:
            bars.update(task, description=job.title[:48], advance=event in ("done", "failed"))
            if event != "started":
                bars.console.print(f"{event}: {job.title} ({worker})", highlight=False)

        if known == keys:
            return Outcome(reused=jobs), store.write_table(jobs)  # no cluster for nothing
        try:
            at_work = start_workers(makers, address=address)
            outcome = run_jobs(jobs, store, at_work, retries=retries, report=show)
        except KeyboardInterrupt as stop:
            store.write_table(jobs)
            raise Stopped(
                f"Stopped. Finished jobs are in {out}; the same command resumes."
            ) from stop
        finally:
            stop_workers()
    return outcome, store.write_table(jobs)


def _makers(plan: Plan, workers: int, gpus: float, servers: Sequence[str]) -> dict[str, Maker]:
    makers: dict[str, Maker] = {}
    for number in range(workers):
        make = partial(PythonWorker, plan.device)
        makers[f"python {number + 1}"] = Maker(PythonWorker.kinds, make, gpus)
    for address in servers:
        makers[address] = Maker(ComfyUIWorker.kinds, partial(ComfyUIWorker, address))
    return makers


def _check(jobs: Sequence[Job], makers: Mapping[str, Maker]) -> None:
    for kind in sorted({job.kind for job in jobs}, key=lambda kind: kind.value):
        if not any(kind in maker.kinds for maker in makers.values()):
            need = "--server ADDRESS" if kind is JobKind.WORKFLOW else "--workers 1 or more"
            raise InputError(
                f"The batch has jobs to {kind.value}, but no worker for them; pass {need}."
            )
