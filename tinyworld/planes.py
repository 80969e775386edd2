"""Pictures, masks and maps at the judge's size."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from torch.nn import functional

from .judge.networks import SIDE


def picture(image: ArrayLike | Tensor, side: int = SIDE) -> Tensor:
    """[H, W, 3] (or [3, H, W] torch) of any size -> [3, side, side], 0..1."""
    x = image if isinstance(image, Tensor) else torch.from_numpy(np.array(image))
    x = x.detach().cpu()
    x = x.float() / 255 if x.dtype == torch.uint8 else x.float()
    x = x.permute(2, 0, 1) if x.shape[-1] == 3 else x
    if x.shape[-2:] != (side, side):
        x = functional.interpolate(
            x[None], (side, side), mode="bilinear", antialias=True, align_corners=False
        )[0]
    return x.clamp(0, 1)


def at_side(mask: ArrayLike | Tensor, side: int = SIDE) -> Tensor:
    """A mask or map [h, w] as float [side, side]; area average or nearest."""
    x = mask if isinstance(mask, Tensor) else torch.from_numpy(np.array(mask))
    x = x.detach().cpu().float()
    if x.shape[-1] == side:
        return x
    if x.shape[-1] > side:
        return functional.adaptive_avg_pool2d(x[None], side)[0]
    return functional.interpolate(x[None, None], (side, side))[0, 0]


def shrunk(cover: NDArray[np.float32], side: int) -> NDArray[np.uint8]:
    """Means of a cover [S, S], 0..1, in side x side cells, as 0..255; more than 1 counts as 1."""
    cell = len(cover) // side
    means = cover.reshape(side, cell, side, cell).mean((1, 3))
    return np.round(255 * np.minimum(means, 1)).astype(np.uint8)


def iou(a: Tensor, b: Tensor) -> float:
    """Intersection over union of two bool masks; 0 when both are empty."""
    union = int((a | b).sum())
    return int((a & b).sum()) / union if union else 0.0
