"""Saves each picture as soon as it is finished, and a contact sheet of several."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from ..viz.overlays import sample_strip
from .drawing import Drawing
from .picture_files import as_png, numbered, write_picture


class Gallery:
    """Takes pictures one by one; the files contain prompt, seed and settings.

    Args:
        out: file of a single picture; for several, file of the contact sheet, and the pictures
            are numbered.
        total: number of pictures.
    """

    def __init__(self, out: Path, total: int, settings: Drawing) -> None:
        self._out, self._total = as_png(out), total
        self._kept: list[tuple[Tensor, str]] = []
        self._files: list[Path] = []
        self._notes = {
            "negative": settings.negative,
            "seed": str(settings.seed),
            "steps": str(settings.steps),
            "cfg": str(settings.cfg),
        }

    def keep(self, picture: Tensor, prompt: str) -> None:
        """Write a picture [H, W, 3], 0..1."""
        self._kept.append((picture, prompt))
        file = self._out if self._total == 1 else numbered(self._out, len(self._kept))
        self._files.append(write_picture(picture, file, {"prompt": prompt, **self._notes}))

    def finished(self) -> list[Path]:
        """All files, the sheet first where there are several."""
        if self._total == 1:
            return self._files
        pictures, prompts = zip(*self._kept, strict=True)
        return [write_picture(sample_strip(list(pictures), list(prompts)), self._out), *self._files]


def save_drawn(
    drawn: Sequence[Tensor], prompts: Sequence[str], settings: Drawing, out: Path
) -> list[Path]:
    """Write all pictures [n, H, W, 3] of every prompt; gives the files as `Gallery` does."""
    gallery = Gallery(out, sum(len(pictures) for pictures in drawn), settings)
    for pictures, prompt in zip(drawn, prompts, strict=True):
        for picture in pictures:
            gallery.keep(picture, prompt)
    return gallery.finished()
