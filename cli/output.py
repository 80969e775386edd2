"""Checks that the output path is writable before any work starts."""

from __future__ import annotations

import os
from pathlib import Path

import typer

HERE = Path()


def writable_folder(out: Path | None) -> Path | None:
    """Callback of an option that names a folder; None is a folder below the current one.

    Raises:
        typer.BadParameter: nothing can be written there.
    """
    reason = _refusal(out or HERE)
    if reason and out is None:
        raise typer.BadParameter(
            f"this folder is not writable: {reason}. Name another folder with -o."
        )
    if reason:
        raise typer.BadParameter(f"{out} is not writable: {reason}. Name another folder.")
    return out


def writable_file(out: Path | None) -> Path | None:
    """The same for an option that names a file.

    Raises:
        typer.BadParameter: it cannot be written.
    """
    if out is None:
        return writable_folder(out)
    reason = "it is a folder" if out.is_dir() else _refusal(out.parent)
    if reason:
        raise typer.BadParameter(f"{out} is not writable: {reason}. Name another file.")
    return out


def _refusal(folder: Path) -> str:
    """Why a folder, which may not exist yet, is not writable; "" if it is."""
    whole = folder.absolute()
    nearest = next(path for path in (whole, *whole.parents) if os.path.lexists(path))
    if not nearest.is_dir():
        return f"{nearest} is not a folder"
    if not os.access(nearest, os.W_OK | os.X_OK):
        return f"writing is not allowed in {nearest}"
    return ""
