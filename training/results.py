"""Saves the results of a run: its state when it ends or stops, the concept before any drawing."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from torch import nn

from ..concepts.changes import count_of
from ..concepts.concept import Concept
from ..concepts.paths import is_full
from ..errors import ConceptFileError, StorageError
from .checkpoints import StateFolder
from .recipe import LoopState, StateStore

log = logging.getLogger("conceptloom")

SaveConcept = Callable[[Concept], Path]  # writes the concept's file and returns its path


class ResultFile:
    """The concept file of a run. If it cannot be written, the concept stays in memory.

    Args:
        write: writes the file; None keeps the concept in memory only.
        states: of this run; on a full disk they are deleted in favour of the concept.

    Attributes:
        path: of the file; None if there is none.
        trouble: why it was not saved, for the user.
    """

    def __init__(self, write: SaveConcept | None, states: StateFolder | None = None) -> None:
        self._write, self._states = write, states
        self.path: Path | None = None
        self.trouble = ""

    def save(self, concept: Concept) -> None:
        """Write the concept, or warn that it is in memory only."""
        if self._write is None:
            return
        try:
            self.path = self._written(concept, self._write)
        except (StorageError, ConceptFileError) as error:
            if self.path is not None:
                log.warning("%s has no thumbnail. %s", self.path.name, error)
                return
            self.trouble = str(error)
            log.warning("The concept is in memory only. %s", error)
        else:
            self.trouble = ""

    def _written(self, concept: Concept, write: SaveConcept) -> Path:
        while True:
            try:
                return write(concept)
            except StorageError as error:
                states = self._states if is_full(error) and self.path is None else None
                if states is None or not states.give_way(size_of(concept)):
                    raise


def size_of(concept: Concept) -> int:
    """Approximate size in bytes of a concept's tensors in its file."""
    count = sum(rows.numel() for vectors in concept.handles.values() for rows in vectors.values())
    for change in concept.weights.values():
        count += count_of(change)
    return 4 * count


@contextmanager
def saved_when_stopped(
    store: StateStore | None, state: LoopState, parameters: Mapping[str, nn.Parameter]
) -> Iterator[Callable[[], str]]:
    """Yields a function that saves now; also saves at the end and after an exception.

    While the result is in memory, a full disk causes a warning; after an exception without a saved
    state, an error.
    """
    saved_at = state.step

    def save() -> str:
        nonlocal saved_at
        if store is None:
            return "in memory only: the run has no folder"
        where = store.save(state, parameters)
        saved_at = state.step
        return where

    def save_if_possible() -> str:
        try:
            return save()
        except StorageError as error:  # what was learned is still in memory: go on with it
            log.warning("The state after step %d could not be saved. %s", state.step, error)
            return "in memory only: it could not be written to disk"

    try:
        yield save_if_possible
    except BaseException:
        if not state.is_whole:
            log.warning("stopped in the middle of a step: step %d is the last saved", saved_at)
        elif store is not None and state.step > saved_at:
            log.info("state at step %d saved: %s", state.step, save())
        raise
    if store is not None and state.step > saved_at:
        where = save_if_possible()
        if state.step == saved_at:
            log.info("state at step %d saved: %s", state.step, where)
