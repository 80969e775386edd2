"""Saves the concept as soon as training ends, before any drawing."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from ..concepts.concept import Concept, Diff
from ..concepts.concept_file import save_concept
from ..concepts.paths import is_full
from ..errors import ConceptFileError, StorageError
from .checkpoints import StateFolder

log = logging.getLogger("conceptloom")

PathOf = Callable[[Concept], Path]  # where a concept's file belongs


class ResultFile:
    """The concept file of a run. A disk that will not take it costs the file and not the concept.

    Args:
        path_of: where the file belongs; None keeps the concept in memory only.
        states: of this run; they give way to the concept where the disk is full.

    Attributes:
        path: of the file; None while there is none.
        trouble: why there is none, for the user.
    """

    def __init__(self, path_of: PathOf | None, states: StateFolder | None = None) -> None:
        self._path_of, self._states = path_of, states
        self.path: Path | None = None
        self.trouble = ""

    def save(self, concept: Concept) -> None:
        """Write the concept, or warn that it is in memory only."""
        if self._path_of is None:
            return
        path = self._path_of(concept)
        try:
            self._write(concept, path)
        except (StorageError, ConceptFileError) as error:
            if self.path == path:
                log.warning("%s has no thumbnail. %s", path.name, error)
                return
            self.path, self.trouble = None, str(error)
            log.warning("The concept is in memory only. %s", error)
        else:
            self.path, self.trouble = path, ""

    def _write(self, concept: Concept, path: Path) -> None:
        while True:
            try:
                save_concept(concept, path)
                return
            except StorageError as error:
                states = self._states if is_full(error) and self.path != path else None
                if states is None or not states.give_way(size_of(concept)):
                    raise


def size_of(concept: Concept) -> int:
    """Bytes of a concept's tensors in its file, about."""
    count = sum(rows.numel() for vectors in concept.handles.values() for rows in vectors.values())
    for change in concept.weights.values():
        parts = [change.tensor] if isinstance(change, Diff) else [change.up, change.down]
        count += sum(part.numel() for part in parts)
    return 4 * count
