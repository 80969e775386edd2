"""Seconds of the stages of a run, and of the steps within them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

from .machine import settle


@dataclass(slots=True)
class Stage:
    """A part of a run, made of steps.

    Attributes:
        planned: steps of the whole stage; fewer may have been made.
        steps: seconds of each that was made.
    """

    planned: int
    steps: list[float] = field(default_factory=list)

    @property
    def made(self) -> float:
        """Seconds of the steps that were made."""
        return sum(self.steps)

    @property
    def step(self) -> float:
        """Seconds of a step, once the first has set everything up."""
        return statistics.median(self.steps[1:] or self.steps)

    @property
    def whole(self) -> float:
        """Seconds of all that were planned; those that are missing as long as the made ones."""
        later = self.steps[1:] or self.steps
        return self.made + (self.planned - len(self.steps)) * statistics.mean(later)

    @property
    def is_whole(self) -> bool:
        return len(self.steps) == self.planned


class Stages:
    """A clock that is told when a step ends; what lies between two calls is the step."""

    def __init__(self, device: str) -> None:
        self._device, self._since = device, time.perf_counter()
        self.found: dict[str, Stage] = {}

    def plan(self, name: str, steps: int) -> None:
        """Announce a stage and how many steps it has when it is whole."""
        self.found[name] = Stage(steps)
        self.mark()

    def mark(self) -> None:
        """The next step begins now."""
        settle(self._device)
        self._since = time.perf_counter()

    def step(self, name: str) -> None:
        """A step of a stage is done."""
        settle(self._device)
        now = time.perf_counter()
        self.found[name].steps.append(now - self._since)
        self._since = time.perf_counter()

    def since(self, name: str) -> None:
        """What has been done since the last step is a stage of its own."""
        self.found[name] = Stage(1)
        self.step(name)

    @contextmanager
    def single(self, name: str) -> Iterator[None]:
        """A stage that is one step."""
        self.plan(name, 1)
        yield
        self.step(name)

    def as_json(self) -> dict[str, Any]:
        return {name: asdict(stage) for name, stage in self.found.items()}
