"""Saved states of a training run, from which the next run resumes exactly.

The folder is named by what the run learns from, so the same inputs find their own state and other
inputs find none.
"""

from __future__ import annotations

import logging
import re
import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..concepts.paths import ensure_writable, is_full
from ..concepts.tensor_file import read_header, read_tensors, write_document
from ..errors import ConceptFileError, StorageError, TrainingError
from .recipe import LoopState
from .state_file import VERSION, TrainingState, load_state, save_state

log = logging.getLogger("conceptloom")

KEPT = 2  # saved states of one run that stay on disk
STATE_FILE = re.compile(r"state-(\d{8})\.safetensors")


class StateFolder:
    """The saved states of one run; pass it to `training.loop.run` as its store.

    Args:
        folder: where all runs keep their states.
        key: of this run, see `content_key`; it names the run's own subfolder.

    Attributes:
        notes: further state of a method, as JSON values. Saved with every state and restored
            by `load`.
    """

    def __init__(self, folder: Path, key: str) -> None:
        self.folder, self._key = folder / key[:32], key
        self.notes: dict[str, Any] = {}

    def ensure_writable(self) -> None:
        """Check before the first step that states can be written.

        Raises:
            StorageError: they cannot.
        """
        ensure_writable(self._file(0))

    def _file(self, step: int) -> Path:
        return self.folder / f"state-{step:08d}.safetensors"

    def files(self) -> list[Path]:
        """Saved states, newest first."""
        if not self.folder.is_dir():
            return []
        return sorted(
            (f for f in self.folder.iterdir() if STATE_FILE.fullmatch(f.name)), reverse=True
        )

    def newest(self) -> TrainingState | None:
        """The newest intact state; skips damaged ones with a warning.

        Raises:
            TrainingError: see `load_state`.
        """
        for path in self.files():
            try:
                return load_state(path, self._key)
            except ConceptFileError as error:
                log.warning("%s Training resumes from an older state, if there is one.", error)
        return None

    def write(self, state: TrainingState) -> Path:
        """Save a state, then drop all but the newest two.

        Files of later steps are also deleted, because this run could not read them. On a full disk,
        older states are deleted first; the newest one stays.
        """
        path = self._file(state.step)
        try:
            save_state(state, path, self._key)
        except StorageError as error:
            older = self.files()[1:]
            if not (older and is_full(error)):
                raise
            log.warning("The disk is full: deleting older states of this run.")
            remove(older)
            save_state(state, path, self._key)
        files = self.files()
        mine = files.index(path)
        remove(files[:mine] + files[mine + KEPT :])
        return path

    def finish(self, *, keep: bool) -> str:
        """Remove the states of a finished run, all or all but the newest; describes the rest."""
        files = self.files()
        remove(files[1:] if keep else files)
        left = self.files()
        size = sum(file.stat().st_size for file in left) / 2**20
        number = {0: "no saved state", 1: "1 saved state"}.get(
            len(left), f"{len(left)} saved states"
        )
        note = f"{number}, {size:,.1f} MiB, in {self.folder}" if left else f"{number} left"
        log.info("%s", note)
        return note

    def give_way(self, needed: int) -> bool:
        """Remove states to make room for a file of this size; True if any were removed.

        Older ones first; the newest only if that frees enough space.
        """
        files = self.files()
        if not files:
            return False
        newest, *older = files
        if not older and shutil.disk_usage(self.folder).free + newest.stat().st_size < needed:
            return False
        log.warning("The disk is full: deleting states of this run to save the result.")
        remove(older or [newest])
        return len(self.files()) < len(files)

    def drop_after(self, step: int) -> None:
        """Remove the states of later steps, after a divergence."""
        for path in self.files():
            if int(path.stem.rpartition("-")[2]) > step:
                path.unlink()

    def remembered(self, name: str, make: Callable[[], Tensor]) -> Tensor:
        """The result of `make`, stored so that a resumed run need not compute it again."""
        path = self.folder / f"{name}.safetensors"
        try:
            return read_tensors(path, read_header(path)[0])[name]
        except (ConceptFileError, FileNotFoundError):
            made = make()
        try:
            write_document(path, {name: made}, {"format": name, "version": VERSION})
        except StorageError as error:
            log.warning("%s The next run makes it again.", error)
        return made

    def save(self, state: LoopState, parameters: Mapping[str, nn.Parameter]) -> str:
        """Write the state of a loop in one atomic step; returns where, for the user."""
        optimizer = state.optimizer and state.optimizer.state_dict()
        values = {name: parameter.detach() for name, parameter in parameters.items()}
        more: dict[str, Any] = {"phase": state.phase, "stepped_down": state.stepped_down}
        more |= {"passes": state.passes, "notes": self.notes}
        saved = TrainingState(state.step, values, optimizer, state.history, more)
        return str(self.write(saved))

    def load(
        self,
        parameters: Mapping[str, nn.Parameter],
        optimizer_for: Callable[[int], torch.optim.AdamW],
    ) -> LoopState | None:
        """Restore the parameters and return the loop's state; None without a saved one.

        Raises:
            TrainingError: the state belongs to other settings or parameters.
        """
        state = self.newest()
        if state is None:
            return None
        _fill(parameters, state.parameters, self.folder)
        self.notes.clear()
        self.notes |= state.more.get("notes", {})
        optimizer = None
        if state.optimizer is not None:
            optimizer = optimizer_for(state.more["phase"])
            optimizer.load_state_dict(state.optimizer)
        return LoopState(
            step=state.step,
            history=state.history,
            optimizer=optimizer,
            phase=state.more["phase"],
            stepped_down=state.more["stepped_down"],
            passes=state.more["passes"],
        )


def remove(files: Iterable[Path]) -> None:
    """Remove files; warns about those that cannot be removed."""
    for file in files:
        try:
            file.unlink(missing_ok=True)
        except OSError as error:  # Windows lends a file to one at a time
            log.warning("%s could not be removed: %s", file.name, error.strerror)


@torch.no_grad()
def _fill(
    parameters: Mapping[str, nn.Parameter], values: Mapping[str, Tensor], folder: Path
) -> None:
    shapes = {name: parameter.shape for name, parameter in parameters.items()}
    if shapes != {name: value.shape for name, value in values.items()}:
        raise TrainingError(
            f"The states in {folder} contain other parameters than this run trains; delete that "
            "folder to start over."
        )
    for name, parameter in parameters.items():
        parameter.copy_(values[name])
