"""Saves the state of a run when it ends or stops."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from torch import nn

from ..errors import StorageError
from .recipe import LoopState, StateStore

log = logging.getLogger("conceptloom")


@contextmanager
def saved_when_stopped(
    store: StateStore | None, state: LoopState, parameters: Mapping[str, nn.Parameter]
) -> Iterator[Callable[[], str]]:
    """Gives a function that saves now; saves at the end, and when the run is stopped before.

    A disk that is full stops nobody who still has the work in memory: it is warned of. Only who
    stops without a saved state is told by an error.
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
