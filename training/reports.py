"""The losses of a run for other programs: a CSV file, and TensorBoard if it is installed."""

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
    """Write one line per step, atomically.

    Columns: step, phase, total, then all other names of any row by alphabet; missing
    values are empty. Numbers keep all digits; NaN is `nan`.

    Raises:
        StorageError: the file cannot be written; the previous file is unchanged.
    """
    names = {name for row in history for name in row}
    columns = [*FIRST_COLUMNS, *sorted(names.difference(FIRST_COLUMNS))]
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(history)
    write_atomically(path, [text.getvalue().encode()])


class TensorBoardLog:
    """The losses of a run for TensorBoard; does nothing if that is not installed.

    Use it in a `with` block, or close it: only then all data is certain to be on disk.
    """

    def __init__(self, folder: Path) -> None:
        self._writer = _writer(folder)

    @property
    def is_writing(self) -> bool:
        """Whether TensorBoard is installed and the log still open."""
        return self._writer is not None

    def scalars(self, row: Mapping[str, float]) -> None:
        """Add a row of the history: all values except the step itself."""
        with self._writing() as writer:
            for name, value in row.items():
                if writer is not None and name != "step":
                    tag = name if name == "phase" else f"loss/{name}"
                    writer.add_scalar(tag, value, int(row["step"]))

    def close(self) -> None:
        """Write the rest and close; later calls do nothing."""
        with self._writing() as writer:
            self._writer = None
            if writer is not None:
                writer.close()

    @contextmanager
    def _writing(self) -> Iterator[SummaryWriter | None]:
        """A full disk ends the log, but not the run."""
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
