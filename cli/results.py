"""The result folder of a run; saves the concept first."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

from torch import Tensor

from ..concepts.concept import Concept
from ..concepts.concept_file import save_concept
from ..concepts.paths import ensure_writable
from ..errors import StorageError
from ..host.ports import Progress
from ..training.results import SaveConcept
from ..training.runner import write_losses
from .cancelling import Cancelled, Stopped
from .picture_files import write_picture
from .progress import RunProgress

log = logging.getLogger("conceptloom")

CONCEPT, STATE = "concept.safetensors", "state"


class _Result(Protocol):
    """What every learning method returns."""

    @property
    def concept(self) -> Concept: ...
    @property
    def history(self) -> Sequence[Mapping[str, float]]: ...
    @property
    def path(self) -> Path | None: ...
    @property
    def trouble(self) -> str: ...


Result = TypeVar("Result", bound=_Result)


@dataclass(slots=True)
class ResultFolder:
    """Folder with `concept.safetensors`, `losses.csv` and pictures of a run; states in `state/`.

    Raises:
        StorageError: the folder is not writable; raised before the first step.
    """

    out: Path
    is_trained: bool = False  # training is over; the concept is written, or could not be

    def __post_init__(self) -> None:
        ensure_writable(self.out / CONCEPT)

    def run(self, work: Callable[[Progress, SaveConcept], Result]) -> Result:
        """Learn, save the concept and the losses; Ctrl-C stops after a step.

        Raises:
            Stopped: the user pressed Ctrl-C; the same call resumes.
            StorageError: the concept could not be saved; the message says where it is instead.
        """
        try:
            with RunProgress(self.out / "preview.png") as progress:
                result = work(progress, self._save)
        except Cancelled as cancelled:
            raise Stopped(self._stopped_note(cancelled)) from cancelled
        if result.path is None:  # this process ends, and the concept in its memory with it
            raise StorageError(f"{result.trouble} {_rescued(result.concept)}")
        write_losses(result.history, self.out / "losses.csv")
        return result

    def _save(self, concept: Concept) -> Path:
        self.is_trained = True
        return save_concept(concept, self.out / CONCEPT)

    def _stopped_note(self, cancelled: Cancelled) -> str:
        if self.is_trained:
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

    def write_pictures(self, **pictures: Tensor | None) -> None:
        """name.png of [H, W, 3], without those that are None; warns if the disk is full."""
        for name, picture in pictures.items():
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
