"""Validates input pictures and resizes them to the training resolution."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from ..errors import ImageError

log = logging.getLogger("conceptloom")

SMALLEST_PX = 16  # a side below this leaves nothing to learn from
LARGEST_STRETCH = 0.1  # of a picture's aspect, as a logarithm; above it the user is told


def checked_picture(index: int, image: Tensor, smallest_px: int = SMALLEST_PX) -> Tensor:
    """[H, W, 3] float32, 0..1, of a picture with 3 channels or 4 (the fourth is dropped).

    Args:
        index: of the picture in messages, from 0.
        smallest_px: of a side.

    Raises:
        ImageError: it has another shape, is too small, or holds no finite numbers.
    """
    if image.ndim != 3 or image.shape[-1] not in (3, 4):
        raise ImageError(
            f"Picture {index + 1} has the shape {list(image.shape)}; it must be height x width x "
            "3 (RGB), or x 4 with an alpha channel, which is ignored."
        )
    if not image.is_floating_point():
        raise ImageError(
            f"Picture {index + 1} is {image.dtype}; it must contain numbers from 0 to 1 (divide "
            "by 255)."
        )
    if not image.isfinite().all():
        raise ImageError(
            f"Picture {index + 1} contains NaN or infinite values; check the node that made it."
        )
    height, width = image.shape[:2]
    if min(height, width) < smallest_px:
        raise ImageError(
            f"Picture {index + 1} is {width}x{height} px; a side needs {smallest_px} px or more."
        )
    return image[..., :3].float().clamp(0, 1)


def resize_picture(image: Tensor, size: tuple[int, int]) -> Tensor:
    """[H, W, C], 0..1, at another (height, width): bilinear, averaging where it becomes smaller."""
    if tuple(image.shape[:2]) == size:
        return image
    channels = image.movedim(-1, 0)[None]
    resized = F.interpolate(channels, size, mode="bilinear", antialias=True).clamp(0, 1)
    return resized[0].movedim(0, -1)


def cut_middle(image: Tensor, size: tuple[int, int]) -> Tensor:
    """The middle (height, width) of a picture [H, W, C] that is at least as large."""
    top, left = (image.shape[0] - size[0]) // 2, (image.shape[1] - size[1]) // 2
    return image[top : top + size[0], left : left + size[1]]


def size_of_area(size: Sequence[int], resolution_px: int, multiple_px: int) -> tuple[int, int]:
    """(H, W) of the wanted area, in whole multiples, with the aspect as near as these allow."""
    short, long = sorted(size)
    aspect = long / short
    scale = resolution_px / (short * long) ** 0.5 if resolution_px else 1.0
    blocks = short * scale / multiple_px

    def stretched(sides: tuple[int, int]) -> float:
        return abs(math.log(sides[1] / sides[0] / aspect))

    best = min(
        (
            (n, m)
            for n in {max(1, math.floor(blocks)), max(1, math.ceil(blocks))}
            for m in (math.floor(n * aspect), math.ceil(n * aspect))
        ),
        key=lambda sides: (stretched(sides), abs(sides[0] - blocks)),
    )
    sides = best if size[0] <= size[1] else best[::-1]
    height, width = (n * multiple_px for n in sides)
    if stretched(best) > LARGEST_STRETCH:
        log.warning(
            "Training resizes pictures of %dx%d px to %dx%d px, which changes their proportions; "
            "a larger resolution_px keeps them.", size[1], size[0], width, height,
        )  # fmt: skip
    return height, width
