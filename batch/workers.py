"""Ray actors that run the jobs, on this machine or on a cluster."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import ray
from ray.exceptions import RayError

from ..errors import InputError
from .jobs import JobKind

RESTS = 15.0  # seconds for a worker whose place was lost; twice as long every further time


class Performer(Protocol):
    """Does the jobs in a worker's process: see `python_worker` and `comfyui_worker`."""

    def perform(
        self, kind: JobKind, key: str, spec: Mapping[str, Any], files: Mapping[str, bytes]
    ) -> dict[str, bytes]: ...


@dataclass(frozen=True, slots=True)
class Maker:
    """How to create a worker.

    Attributes:
        make: creates its performer, in its own process.
        gpus: number of its GPUs; below 1, several workers share one.
    """

    kinds: Sequence[JobKind]
    make: Callable[[], Performer]
    gpus: float = 0.0


class _Process:
    """A Ray actor around a performer, which it creates in its own process."""

    def __init__(self, make: Callable[[], Performer]) -> None:
        self._performer = make()

    def pid(self) -> int:
        return os.getpid()

    def perform(self, *job: Any) -> tuple[dict[str, bytes], float]:
        began = time.monotonic()
        return self._performer.perform(*job), time.monotonic() - began


@dataclass
class Worker:
    """A worker in its own process.

    Attributes:
        start: a new actor.
        lost: how many times in a row it did not respond.
    """

    name: str
    kinds: Sequence[JobKind]
    start: Callable[[], Any]
    lost: int = 0

    def __post_init__(self) -> None:
        self._rests_until = 0.0
        self.start_again()

    def start_again(self) -> None:
        """Start a new process, also to replace a dead one.

        (Ray could restart the old actor, but refuses its tasks until that is up.)
        """
        self.actor = self.start()
        self._is_up = self.actor.pid.remote()

    def rest(self) -> None:
        """Take no jobs for a while, because it did not respond."""
        self._rests_until = time.monotonic() + RESTS * 2**self.lost
        self.lost += 1

    @property
    def is_ready(self) -> bool:
        """Whether it is not pausing and its process runs; a full cluster may delay the start.

        (A job assigned to a process that has not started would wait with it.)
        """
        rests = time.monotonic() < self._rests_until
        return not rests and bool(ray.wait([self._is_up], timeout=0)[0])


def start_workers(makers: Mapping[str, Maker], *, address: str | None = None) -> list[Worker]:
    """One worker for each maker; if a cluster is full, the remaining ones start later.

    Args:
        makers: by name.
        address: of a Ray cluster, "auto" for the one that this machine belongs to; None starts one
            for this run alone.

    Raises:
        InputError: the cluster does not exist, or is too small for one of the workers.
    """
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # Ray would report to its makers
    local: dict[str, Any] = (
        {"num_cpus": len(makers), "include_dashboard": False} if address is None else {}
    )
    try:
        ray.init(
            address=address or "local", log_to_driver=False, logging_level=logging.ERROR, **local
        )
    except (ConnectionError, RuntimeError, ValueError, RayError) as error:
        raise InputError(
            f"Ray does not start, or there is no cluster at {address!r}: {error}"
        ) from error
    check_room(makers)
    process = ray.remote(num_cpus=1)(_Process)
    return [
        Worker(name, one.kinds, partial(process.options(num_gpus=one.gpus).remote, one.make))
        for name, one in makers.items()
    ]


def check_room(makers: Mapping[str, Maker]) -> None:
    """Raise if a worker could never start."""
    cpus, gpus = (ray.cluster_resources().get(kind, 0) for kind in ("CPU", "GPU"))
    for name, maker in makers.items():
        if cpus < 1 or gpus < maker.gpus:
            raise InputError(
                f"The worker {name!r} needs 1 core and {maker.gpus:g} GPU, but Ray has {cpus:g} "
                f"and {gpus:g}; lower --gpus."
            )


def stop_workers() -> None:
    """Stop all workers of this run; an existing cluster continues."""
    ray.shutdown()
