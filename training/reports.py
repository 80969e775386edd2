"""The losses of a run for other programs: a CSV file, and TensorBoard where it is installed."""

from __future__ import annotations

import csv
import io
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from ..concepts.paths import write_atomically

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

log = logging.getLogger("conceptloom")

FIRST_COLUMNS = ("step", "phase", "total")


def write_csv(history: Sequence[Mapping[str, float]], path: Path) -> None:
    """One line per step; a reader never sees half a file.

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
    write_atomically(path, [text.getvalue().encode()])


class TensorBoardLog:
    """The losses of a run for TensorBoard; does nothing where that is not installed.

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
        with self._writing() as writer:
            for name, value in row.items():
                if writer is not None and name != "step":
                    tag = name if name == "phase" else f"loss/{name}"
                    writer.add_scalar(tag, value, int(row["step"]))

    def close(self) -> None:
        """Write what is left; later calls do nothing."""
        with self._writing() as writer:
            self._writer = None
            if writer is not None:
                writer.close()

    @contextmanager
    def _writing(self) -> Iterator[SummaryWriter | None]:
        """A disk that is full ends the log, and nothing of the run."""
        try:
            yield self._writer
        except OSError as error:
            log.warning("TensorBoard files of this run end here: %s", error)
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


_reported: set[str] = set()  # what the user has been told in this session


def _writer(folder: Path) -> SummaryWriter | None:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        if "tensorboard" not in _reported:
            _reported.add("tensorboard")
            log.info("no TensorBoard files (`pip install tensorboard` for them); see the CSV file")
        return None
    try:
        return SummaryWriter(str(folder))
    except OSError as error:
        log.warning("no TensorBoard files for this run: %s", error)
        return None
