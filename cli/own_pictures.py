"""Pictures that a command redraws at their own size."""

from __future__ import annotations

import logging
from pathlib import Path

from torch import Tensor

from ..errors import ImageError
from ..host.ports import Host
from .drawing import natural_size
from .picture_reader import read_image

log = logging.getLogger("conceptloom")
MUCH = 4  # times the model's native area: minutes without a step, and objects too small


def picture_for(host: Host, path: Path) -> Tensor:
    """[H, W, 3] in 0..1; warns about a picture much larger than what the model draws.

    Raises:
        ImageError: it is no picture, or its sides do not fit the latents.
    """
    image, side = read_image(path), host.pixels_per_latent
    height, width = image.shape[:2]
    fit = " x ".join(str(n) for n in reversed(native_size(host, (height, width))))
    if height % side or width % side:
        raise ImageError(
            f"{path} is {width}x{height} px; its sides must be multiples of {side} for this "
            f"model. Resize it with its masks, for example to {fit} px, the model's native area."
        )
    native = natural_size(host)
    times = height * width / (native[0] * native[1])
    if times > MUCH:
        log.warning(
            "%s has %.0f times the pixels that this model draws at its best; drawing is slow and "
            "objects come out too small. Resize it with its masks, for example to %s px.",
            path, times, fit,
        )  # fmt: skip
    return image


def native_size(host: Host, size_px: tuple[int, int]) -> tuple[int, int]:
    """(H, W) of about the model's native area, in the aspect of a picture, on the latent grid."""
    side, native = host.pixels_per_latent, natural_size(host)
    shrink = (native[0] * native[1] / (size_px[0] * size_px[1])) ** 0.5
    height, width = (max(side, round(n * shrink / side) * side) for n in size_px)
    return height, width
