"""Pictures written to files: one, or several with a contact sheet; and their names."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from itertools import chain, count
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image, PngImagePlugin
from torch import Tensor

from ..concepts.paths import write_atomically
from ..viz.overlays import sample_strip

if TYPE_CHECKING:
    from .drawing import Drawing


def write_picture(image: Tensor, path: Path, notes: Mapping[str, str] | None = None) -> Path:
    """Write [H, W, 3], 0..1, as PNG, atomically.

    Args:
        notes: prompt, seed and the like, kept inside of the file.

    Raises:
        StorageError: the file cannot be written.
    """
    write_atomically(path, [png_bytes(image, notes)])
    return path


def free_name(path: Path) -> Path:
    """The first unused name, also for numbered pictures: x.png, x-2.png, ..."""
    tries = chain([path], (path.with_name(f"{path.stem}-{n}{path.suffix}") for n in count(2)))
    return next(file for file in tries if not file.exists() and not numbered(file, 1).exists())


def numbered(path: Path, number: int) -> Path:
    """The name of one of several pictures."""
    return path.with_name(f"{path.stem}-{number:02d}{path.suffix}")


def as_png(path: Path) -> Path:
    """The name with the suffix .png."""
    return path if path.suffix.lower() == ".png" else path.with_name(path.name + ".png")


def png_bytes(image: Tensor, notes: Mapping[str, str] | None = None) -> bytes:
    """A PNG of [H, W, 3], 0..1."""
    values = (image.detach().cpu().float().clamp(0, 1) * 255).round().byte().numpy()
    info = PngImagePlugin.PngInfo()
    for name, text in (notes or {}).items():
        info.add_itxt(name, text)
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, "PNG", pnginfo=info)
    return buffer.getvalue()


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
