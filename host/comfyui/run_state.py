"""Shared state of the wrappers on a MODEL during a sampling run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Generic, TypeVar

Run = TypeVar("Run")


class Slot(Generic[Run]):
    """Empty except during a run. Copies of a MODEL's options share it."""

    def __init__(self) -> None:
        self.run: Run | None = None

    @contextmanager
    def filled(self, run: Run) -> Iterator[None]:
        """Hold the state of a run during the context; runs may nest."""
        outer, self.run = self.run, run
        try:
            yield
        finally:
            self.run = outer

    def __deepcopy__(self, memo: dict[int, Any]) -> Slot[Run]:
        return self
