"""Pictures and masks from files and back, as the pack's tensors."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping, Sequence
from itertools import chain, count
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, PngImagePlugin, UnidentifiedImageError
from torch import Tensor

from ..errors import ImageError, InputError, MaskError, StorageError

_REFUSED = (
    OSError,
    SyntaxError,
    UnidentifiedImageError,
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,
)


def read_image(path: Path) -> Tensor:
    """[H, W, 3], 0..1, turned upright as its EXIF says; transparency is dropped.

    Raises:
        ImageError: there is no such file, or it is no picture.
    """
    return _as_tensor(_opened(path, ImageError, "picture").convert("RGB"))


def read_mask(path: Path) -> Tensor:
    """[H, W], 0..1: white belongs to the concept; in a picture with transparency, what is opaque.

    Raises:
        MaskError: there is no such file, or it is no picture.
    """
    picture = _opened(path, MaskError, "mask")
    if "A" in picture.getbands():
        opaque = _as_tensor(picture.getchannel("A"))
        if opaque.min() < 1:
            return opaque
    return _as_tensor(picture.convert("L"))


def read_images(paths: Sequence[Path]) -> Tensor:
    """[P, H, W, 3] pictures of one size.

    Raises:
        ImageError: they differ in size, or see `read_image`.
    """
    images = [read_image(path) for path in paths]
    for path, image in zip(paths, images, strict=True):
        if image.shape != images[0].shape:
            raise ImageError(
                f"{path} is {image.shape[1]}x{image.shape[0]} px but {paths[0]} is "
                f"{images[0].shape[1]}x{images[0].shape[0]} px; bring them to one size."
            )
    return torch.stack(images)


def write_picture(image: Tensor, path: Path, notes: Mapping[str, str] | None = None) -> Path:
    """Write [H, W, 3], 0..1, as PNG, whole or not at all.

    Args:
        notes: prompt, seed and the like, kept inside of the file.

    Raises:
        StorageError: the disk would not take it.
    """
    part = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_bytes(png_bytes(image, notes))
        os.replace(part, path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise StorageError(f"{path} could not be written: {error.strerror or error}.") from error
    return path


def free_name(path: Path) -> Path:
    """A name under which no picture lies yet, nor the first of several: x.png, else x-2.png, ..."""
    tries = chain([path], (path.with_name(f"{path.stem}-{n}{path.suffix}") for n in count(2)))
    return next(file for file in tries if not file.exists() and not numbered(file, 1).exists())


def numbered(path: Path, number: int) -> Path:
    """The name of one of several pictures."""
    return path.with_name(f"{path.stem}-{number:02d}{path.suffix}")


def as_png(path: Path) -> Path:
    """The name with the ending of what is written."""
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


def _opened(path: Path, kind: type[InputError], what: str) -> Image.Image:
    if not path.is_file():
        raise kind(f"There is no {what} {path}; check the name, relative to where you are.")
    try:
        with Image.open(path) as picture:
            return ImageOps.exif_transpose(picture)
    except _REFUSED as error:
        raise kind(f"{path} is no {what} that can be read ({error}); save it as PNG.") from error


def _as_tensor(picture: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(picture)).float() / 255
