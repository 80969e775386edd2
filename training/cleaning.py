"""Finds saved states of earlier runs, reports their sizes and deletes them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from .checkpoints import STATE_FILE, remove

_RUN = re.compile(r"[0-9a-f]{32}")  # a run's folder, see `StateFolder`
_PART = re.compile(r"\.[0-9a-f]{16}\.part")  # a file that somebody was killed over, see `paths`


@dataclass(frozen=True, slots=True)
class SavedRun:
    """The states of one run.

    Attributes:
        states: newest first.
        parts: incomplete files.
    """

    folder: Path
    states: tuple[Path, ...]
    parts: tuple[Path, ...]

    def files(self, *, every: bool) -> list[Path]:
        """Files to delete: all states except the newest, or all of them."""
        return [*self.parts, *self.states[0 if every else 1 :]]


def saved_runs(root: Path) -> Iterator[SavedRun]:
    """All runs below a folder with states or incomplete files, sorted by folder."""
    for folder in sorted(root.rglob("*")):
        if not (_RUN.fullmatch(folder.name) and folder.is_dir()):
            continue
        inside = sorted((file for file in folder.iterdir() if file.is_file()), reverse=True)
        states = tuple(file for file in inside if STATE_FILE.fullmatch(file.name))
        parts = tuple(file for file in inside if _PART.fullmatch(file.name))
        if states or parts:
            yield SavedRun(folder, states, parts)


def size_of(files: list[Path]) -> int:
    """Total size of files in bytes."""
    return sum(file.stat().st_size for file in files)


def clean(run: SavedRun, *, every: bool) -> None:
    """Remove these files, and the folder if it becomes empty."""
    remove(run.files(every=every))
    if not any(run.folder.iterdir()):
        run.folder.rmdir()
