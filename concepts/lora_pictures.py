"""The picture of a LoRA: in its metadata, or in a file beside it as model managers keep it."""

from __future__ import annotations

import base64
import binascii
import io
import logging
from collections.abc import Mapping
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from .concept_file import THUMBNAIL_PX

log = logging.getLogger("conceptloom")

ENDINGS = (".preview.png", ".preview.jpeg", ".preview.jpg", ".png", ".jpeg", ".jpg", ".webp")
_BOMBS = (Image.DecompressionBombError, Image.DecompressionBombWarning)
LARGEST = 64 * 1024**2  # bytes of a picture that is looked at


def picture_of(path: Path, metadata: Mapping[str, str]) -> Tensor | None:
    """[H, W, 3], 0..1, at most 256 px; None where there is none that can be read."""
    _, comma, text = metadata.get("modelspec.thumbnail", "").partition("base64,")
    if comma and len(text) < LARGEST:
        try:
            return from_picture(base64.b64decode(text, validate=True))
        except (ValueError, binascii.Error) as error:
            log.warning("The picture in the metadata of %s is left out: %s.", path.name, error)
    for beside in (path.with_name(path.stem + ending) for ending in ENDINGS):
        try:
            if beside.is_file() and beside.stat().st_size < LARGEST:
                return from_picture(beside.read_bytes())
        except (OSError, ValueError) as error:
            log.warning("%s is left out: %s.", beside.name, error)
    return None


def from_picture(data: bytes) -> Tensor:
    """[H, W, 3], 0..1, at most 256 px, from a PNG, JPEG or WebP file.

    Raises:
        ValueError: it is no such picture.
    """
    try:
        with Image.open(io.BytesIO(data), formats=["PNG", "JPEG", "WEBP"]) as picture:
            small = picture.convert("RGB")
            small.thumbnail((THUMBNAIL_PX, THUMBNAIL_PX), Image.Resampling.LANCZOS)
            pixels, (width, height) = bytearray(small.tobytes()), small.size
    except (OSError, SyntaxError, ValueError, *_BOMBS) as error:
        raise ValueError("it is no picture that can be read") from error
    return torch.frombuffer(pixels, dtype=torch.uint8).reshape(height, width, 3).float() / 255
