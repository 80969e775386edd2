"""Small pictures as text, for the document of a concept file."""

from __future__ import annotations

import base64
import binascii
import io

import torch
from PIL import Image
from torch import Tensor

THUMBNAIL_PX = 256  # longer side
_LONGEST = 1_000_000  # characters of base64


_BOMBS = (Image.DecompressionBombError, Image.DecompressionBombWarning)


def to_png(thumbnail: Tensor) -> str:
    """Base64 of a PNG of at most 256 px, from [H, W, 3], 0..1. Same picture, same text."""
    pixels = (thumbnail.detach().float().clamp(0, 1) * 255).round().byte().cpu().numpy()
    picture = Image.fromarray(pixels)
    if max(picture.size) > THUMBNAIL_PX:
        picture.thumbnail((THUMBNAIL_PX, THUMBNAIL_PX), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode()


def from_png(text: str) -> Tensor:
    """[H, W, 3], 0..1, from what `to_png` made.

    Raises:
        ValueError: it is anything else.
    """
    if len(text) > _LONGEST:
        raise ValueError("its thumbnail is too large")
    try:
        raw = base64.b64decode(text, validate=True)
        with Image.open(io.BytesIO(raw), formats=["PNG"]) as picture:
            if max(picture.size) > THUMBNAIL_PX or picture.mode != "RGB":
                raise ValueError(f"its thumbnail is {picture.size}, {picture.mode}")
            size, data = picture.size, bytearray(picture.tobytes())
    except (binascii.Error, OSError, SyntaxError, *_BOMBS) as error:
        raise ValueError("its thumbnail is not a PNG") from error
    pixels = torch.frombuffer(data, dtype=torch.uint8).reshape(size[1], size[0], 3)
    return pixels.float() / 255
