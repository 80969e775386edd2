"""The losses of a run for other programs: a CSV file, and TensorBoard where it is installed."""

from __future__ import annotations

import contextlib
import csv
import io
import logging
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from torch import Tensor

from ..errors import StorageError

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

log = logging.getLogger("conceptloom")

FIRST_COLUMNS = ("step", "phase", "total")


def write_csv(history: Sequence[Mapping[str, float]], path: Path) -> None:
    """One line per step. Written beside and moved into place, so a reader never sees half a file.

    Columns: step, phase, total, then all other names of any row by alphabet; a value that a row
    does not have is left empty. Numbers keep all their digits; NaN is `nan`.

    Raises:
        StorageError: the file cannot be written; what stood there before still stands.
    """
    names = {name for row in history for name in row}
    columns = [*FIRST_COLUMNS, *sorted(names.difference(FIRST_COLUMNS))]
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(history)
    _write_whole(path, text.getvalue())


def _write_whole(path: Path, text: str) -> None:
    beside = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        number, beside = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".part")
        with open(number, "w", encoding="utf-8", newline="") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except OSError as error:
        if beside is not None:
            with contextlib.suppress(OSError):
                os.unlink(beside)
        raise StorageError(
            f"{path.name} could not be written to {path.parent}: {error.strerror}. Free some space "
            "or choose a folder that you may write to."
        ) from error


class TensorBoardLog:
    """Scalars and pictures of a run for TensorBoard; does nothing where that is not installed.

    Use it in a `with` block, or close it: what was added is certain to be on disk only then.
    """

    def __init__(self, folder: Path) -> None:
        self._writer = _writer(folder)

    @property
    def is_writing(self) -> bool:
        """Whether TensorBoard is installed and the log still open."""
        return self._writer is not None

    def scalars(self, row: Mapping[str, float]) -> None:
        """A row of the history: every value but the step itself, at that step."""
        if self._writer is None:
            return
        for name, value in row.items():
            if name != "step":
                tag = name if name == "phase" else f"loss/{name}"
                self._writer.add_scalar(tag, value, int(row["step"]))

    def picture(self, name: str, image: Tensor, step: int) -> None:
        """A picture [H, W, 3], 0..1."""
        if self._writer is not None:
            whole = (image.detach().cpu().clamp(0, 1) * 255).round().byte()
            self._writer.add_image(name, whole.numpy(), step, dataformats="HWC")

    def close(self) -> None:
        """Write what is left; later calls do nothing."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def __enter__(self) -> TensorBoardLog:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


_told: set[str] = set()  # what the user has been told in this session


def _writer(folder: Path) -> SummaryWriter | None:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        if "tensorboard" not in _told:
            _told.add("tensorboard")
            log.info("no TensorBoard files (`pip install tensorboard` for them); see the CSV file")
        return None
    try:
        return SummaryWriter(str(folder))
    except OSError as error:
        raise StorageError(
            f"TensorBoard files could not be written to {folder}: {error.strerror}. Choose a "
            "folder that you may write to, or turn them off."
        ) from error
