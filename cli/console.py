"""Console output: results on standard output, remarks and errors on standard error."""

from __future__ import annotations

import logging

from rich.console import Console
from rich.markup import escape

console = Console(highlight=False)
remarks = Console(stderr=True, highlight=False)


def say(text: str, style: str = "") -> None:
    """Print one line; brackets in it are text, not markup."""
    console.print(escape(text), style=style or None, soft_wrap=True)


def complain(text: str) -> None:
    """Print an error."""
    remarks.print(f"[bold red]Error:[/] {escape(text)}", soft_wrap=True)


class _ToConsole(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        style = "yellow" if record.levelno >= logging.WARNING else "dim"
        remarks.print(escape(self.format(record)), style=style, soft_wrap=True)


def log_to_console(*, debug: bool) -> None:
    """Send the pack's own log lines to the user; call it as often as you like."""
    log = logging.getLogger("conceptloom")
    log.handlers = [_ToConsole()]
    log.setLevel(logging.DEBUG if debug else logging.INFO)
