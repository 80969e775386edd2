"""The result folder of a run; saves the concept first."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from ..concepts.concept import Concept
from ..concepts.concept_file import save_concept
from ..concepts.paths import ensure_writable
from ..errors import StorageError
from ..training.reports import write_csv
from .cancelling import Cancelled
from .picture_files import write_picture

log = logging.getLogger("conceptloom")

CONCEPT, STATE = "concept.safetensors", "state"


@dataclass(slots=True)
class ResultFolder:
    """Where a run leaves `concept.safetensors`, `losses.csv` and pictures.

    Raises:
        StorageError: nothing can be written there; found out before the first step.
    """

    out: Path
    has_learned: bool = False  # learning is over and the concept is, or was to be, written

    def __post_init__(self) -> None:
        ensure_writable(self.out / CONCEPT)

    def path_of(self, concept: Concept) -> Path:
        """Where the concept belongs, for the methods, which ask when learning is over."""
        self.has_learned = True
        return self.out / CONCEPT

    def check_saved(self, concept: Concept, path: Path | None, trouble: str) -> None:
        """Nobody takes the concept over when this process ends, so it has to lie somewhere.

        Raises:
            StorageError: it is not where it belongs; says where it lies instead.
        """
        if path is None:
            raise StorageError(f"{trouble} {_rescued(concept)}")

    def stopped_note(self, cancelled: Cancelled) -> str:
        """What a user should know of a run that was stopped."""
        if self.has_learned:
            return (
                "Stopped while drawing. Training is finished: the concept is in "
                f"{self.out / CONCEPT}. The same command draws the missing pictures."
            )
        if not cancelled.learning:
            return (
                "Stopped before the first step. The same command starts over, or resumes from the "
                f"state in {self.out / STATE}."
            )
        return (
            f"Stopped after step {cancelled.step} of {cancelled.total}. The state is in "
            f"{self.out / STATE}; the same command resumes from it."
        )

    def write_losses(self, history: Sequence[Mapping[str, float]]) -> None:
        """losses.csv; a disk that will not take it is warned of."""
        try:
            write_csv(history, self.out / "losses.csv")
        except StorageError as error:
            log.warning("%s", error)

    def write_picture(self, name: str, picture: Tensor | None) -> None:
        """name.png of [H, W, 3], if there is one; a disk that will not take it is warned of."""
        try:
            if picture is not None:
                write_picture(picture, self.out / f"{name}.png")
        except StorageError as error:
            log.warning("%s", error)


def _rescued(concept: Concept) -> str:
    """Put a concept into the folder for temporary files, and say so."""
    try:
        path = Path(tempfile.mkdtemp(prefix="conceptloom-")) / CONCEPT
        save_concept(concept, path)
    except (StorageError, OSError) as error:
        return f"The folder for temporary files is not writable either: {error}"
    return f"The concept is in {path} instead; move it to the desired folder."
