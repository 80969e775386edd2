"""Pictures from files of any kind that Pillow opens, for every command.

Integers of 8, 16 and 32 bits and floating point come out as 0..1, CMYK, LAB and palettes as RGB,
and EXIF orientation is applied. Animations give their first frame.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError
from torch import Tensor

from ..errors import ImageError, InputError

log = logging.getLogger("conceptloom")

BACKGROUND = 1.0  # white: what shows through transparent pixels, whatever colour they hide
_SCALES = (1.0, 255.0, 65535.0, 2.0**32 - 1)  # largest value of floats and of 8, 16 and 32 bits
_FLOAT_SLACK = 1.5  # of 1.0: resampling and highlights overshoot a little
_PLUGINS = (  # module, what registers it, endings; installed by users who have such files
    ("pillow_heif", "register_heif_opener", (".heic", ".heif", ".hif")),
    ("pillow_avif", "", (".avif",)),  # Pillow 11.3 and newer read AVIF themselves
)
_KINDS = {"AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TGA", "TIFF", "WEBP"}
_REFUSED = (
    OSError,
    SyntaxError,
    ValueError,
    UnidentifiedImageError,
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,
)


def read_image(path: Path) -> Tensor:
    """[H, W, 3], 0..1; transparent pixels show white, not the colour that they hide.

    Raises:
        ImageError: the file does not exist or is not a picture.
    """
    picture = opened(path, ImageError, "picture")
    with refused_as(ImageError, path, "picture"):
        colour, opacity = planes_of(picture)
    return _tensor((colour * opacity + BACKGROUND * (1 - opacity)).clip(0, 1))


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
                f"{images[0].shape[1]}x{images[0].shape[0]} px; resize them to the same size."
            )
    return torch.stack(images)


def picture_endings() -> set[str]:
    """Endings of the files that may be pictures, as Pillow and its known plugins name them."""
    of_plugins = {ending for *_, endings in _PLUGINS for ending in endings}
    registered = Image.registered_extensions().items()
    return of_plugins | {ending for ending, kind in registered if kind in _KINDS}


def opened(path: Path, kind: type[InputError], what: str) -> Image.Image:
    """A file as Pillow reads it: its first frame, upright.

    Raises:
        InputError: of the given kind; the file does not exist, or Pillow cannot read it.
    """
    if not path.is_file():
        raise kind(f"There is no {what} {path}; check the name, relative to the current folder.")
    _register_plugins(path)
    with refused_as(kind, path, what), Image.open(path) as file:
        if getattr(file, "n_frames", 1) > 1 and file.format != "MPO":  # a camera's previews
            log.warning("%s has %d frames; using the first one.", path, file.n_frames)
            file.seek(0)
        picture = ImageOps.exif_transpose(file)
        picture.format = file.format
        return picture


@contextmanager
def refused_as(kind: type[InputError], path: Path, what: str) -> Iterator[None]:
    """Convert Pillow's exceptions about a file into our own."""
    try:
        yield
    except _REFUSED as error:
        raise kind(f"{path} is not a readable {what} ({error}); {_remedy(path)}") from error


def planes_of(picture: Image.Image) -> tuple[np.ndarray, np.ndarray]:
    """Colour [H, W, 3] and opacity [H, W, 1], float32, 0..1.

    Raises:
        ValueError: its values have no known scale.
    """
    if picture.mode == "F" or picture.mode.startswith("I"):
        return _deep_planes(picture)
    opacity = np.ones((picture.height, picture.width), np.float32)
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        opacity = _array(picture.getchannel("A")) / 255
    if picture.mode == "LAB":  # Pillow converts it by colour profiles only
        picture = _lab_to_rgb(picture)
    return _array(picture.convert("RGB")) / 255, opacity[..., None]


def _deep_planes(picture: Image.Image) -> tuple[np.ndarray, np.ndarray]:
    """Of one channel of 16 or 32 bits, integer or floating point, which Pillow would clip."""
    values = np.asarray(picture).astype(np.float64)
    if not np.isfinite(values).all() or values.min() < 0:
        raise ValueError("it contains negative or infinite values, or NaN")
    plane = (values / _largest_value(picture, values)).clip(0, 1).astype(np.float32)[..., None]
    hidden = picture.info.get("transparency")  # PNG: one grey value that is transparent
    opacity = (values != hidden) if isinstance(hidden, int) else np.ones_like(values)
    return plane.repeat(3, axis=-1), opacity[..., None].astype(np.float32)


def _largest_value(picture: Image.Image, values: np.ndarray) -> float:
    """The value of white. 32-bit files have any range: the smallest known one that fits."""
    if picture.mode.startswith("I;16") or picture.format in ("PNG", "PPM"):
        return 65535.0
    largest = float(values.max())
    if picture.mode == "F" and largest <= _FLOAT_SLACK:
        return 1.0
    scales = [scale for scale in _SCALES if scale >= max(largest, 2.0)]
    if not scales:
        raise ValueError(f"its values reach {largest:g}; scale them to 0..1")
    return scales[0]


def _lab_to_rgb(picture: Image.Image) -> Image.Image:
    lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
    converted = ImageCms.profileToProfile(picture, lab, srgb, outputMode="RGB")
    assert converted is not None  # only `inPlace` gives None
    return converted


def _register_plugins(path: Path) -> None:
    for module, register, endings in _PLUGINS:
        if path.suffix.lower() in endings:
            with suppress(ImportError):
                plugin: Any = import_module(module)
                if register:
                    getattr(plugin, register)()


def _remedy(path: Path) -> str:
    for module, _, endings in _PLUGINS:
        if path.suffix.lower() in endings:
            return f"save it as PNG, or pip install {module.replace('_', '-')}."
    return "save it as PNG."


def _array(picture: Image.Image) -> np.ndarray:
    return np.asarray(picture).astype(np.float32)


def _tensor(values: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(values, np.float32))
