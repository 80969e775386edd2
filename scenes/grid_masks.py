"""Masks as a loss sees them: on the grid of the latents, or of attention maps."""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from torch import Tensor


def mask_on_grid(
    mask: Tensor, size: tuple[int, ...], mode: Literal["nearest", "bilinear"] = "nearest"
) -> Tensor:
    """A mask on a coarser grid; what is thinner than a cell does not vanish.

    Resized like `torch.nn.functional.interpolate` does by default, which the official codes use and
    which looks at one or four pixels of a cell; where those miss the mask altogether, the largest
    value in each cell counts.

    Args:
        mask: [H, W], 0..1.
        size: (h, w) of the grid.
        mode: "nearest" as in Break-A-Scene (train.py:1146-1151), "bilinear" as in CLiC
            (learning.py:107).

    Returns:
        [h, w], 0..1.
    """
    plane = mask[None, None]
    resized = F.interpolate(plane, size, mode=mode)
    if resized.max() == 0:
        resized = F.adaptive_max_pool2d(plane, size)
    return resized[0, 0]
