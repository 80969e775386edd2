"""Progress in the terminal; Ctrl-C stops after a step without losing work."""

from __future__ import annotations

import logging
import re
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn
from torch import Tensor

from ..errors import StorageError
from .cancelling import Cancelled
from .console import console, say
from .picture_files import write_picture

log = logging.getLogger("conceptloom")

SIGNALS = (signal.SIGINT, signal.SIGTERM)
QUIET_S = 2.0  # between two lines of what is no training
LOGGED_EVERY = 10  # per cent between two lines where the output is no terminal
_TRAINING = re.compile(r"(?P<stage>.+): (?P<figures>loss .*)")

Handler = Callable[[int, FrameType | None], Any] | int | None


class RunProgress:
    """A `host.ports.Progress` for the terminal; use it in a `with` block.

    The first Ctrl-C (or a cluster's SIGTERM) raises `Cancelled` out of the next report, when the
    step is complete and its state can be saved. The second one stops at once.

    Args:
        preview: file that always holds the newest preview; None drops previews.
    """

    def __init__(self, preview: Path | None = None) -> None:
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[figures]}"),
            console=console,
        )
        self._preview = preview
        self._tasks: dict[str, TaskID] = {}
        self._logged: dict[str, int] = {}
        self._last_line = 0.0
        self._asked_to_stop = False
        self._learned: tuple[int, int] | None = None  # steps of training so far, and of all
        self._before: dict[signal.Signals, Handler] = {}

    def __enter__(self) -> RunProgress:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._stop) for number in SIGNALS}
        if console.is_terminal:
            self._bars.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if console.is_terminal:
            self._bars.stop()
        self._restore_signals()

    def __call__(
        self, step: int, total: int, message: str = "", preview: Tensor | None = None
    ) -> None:
        if preview is not None and self._preview is not None:
            self._show_preview(preview, self._preview)
        match = _TRAINING.fullmatch(message)
        if match is not None:
            self._learned = step, total
        if step == 0 and match is None:
            if message:
                say(message)
        elif message:
            self._show(match["stage"] if match else message, step, total, match)
        if self._asked_to_stop:
            raise Cancelled(*(self._learned or (step, total)), learning=self._learned is not None)

    def _show_preview(self, preview: Tensor, file: Path) -> None:
        try:
            write_picture(preview, file)
        except StorageError as error:  # costs the picture and not the run
            log.warning("%s", error)

    def _show(self, stage: str, step: int, total: int, match: re.Match[str] | None) -> None:
        figures = match["figures"] if match else ""
        if console.is_terminal:
            if stage not in self._tasks:
                self._tasks[stage] = self._bars.add_task(stage, total=total, figures="")
            self._bars.update(self._tasks[stage], completed=step, total=total, figures=figures)
            return
        share = 100 * step // total // LOGGED_EVERY
        # What is quickly over, and comes again and again, is not worth its lines.
        is_soon = match is None and time.monotonic() - self._last_line < QUIET_S
        if (self._logged.get(stage) != share and not is_soon) or step == total:
            self._logged[stage] = share
            self._last_line = time.monotonic()
            say(f"{stage}: {step}/{total} {figures}".rstrip())

    def _stop(self, number: int, frame: FrameType | None) -> None:
        self._asked_to_stop = True
        self._restore_signals()
        say("Stopping after this step or pass. Press Ctrl-C again to stop at once.", "yellow")

    def _restore_signals(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}
