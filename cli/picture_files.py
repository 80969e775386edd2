"""Pictures written to files, and their names."""

from __future__ import annotations

import io
from collections.abc import Mapping
from itertools import chain, count
from pathlib import Path

from PIL import Image, PngImagePlugin
from torch import Tensor

from ..concepts.paths import write_atomically


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
