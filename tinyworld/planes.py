"""Pictures, masks and maps at the oracle's size: brought there, taken apart, grown and blurred."""

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


def components(mask: Tensor) -> list[Tensor]:
    """8-connected parts of a bool mask [h, w], the largest first."""
    h, w = mask.shape
    labels = torch.arange(1, h * w + 1).view(1, 1, h, w).float() * mask
    while True:
        spread = functional.max_pool2d(labels, 3, 1, 1) * mask
        if torch.equal(spread, labels):
            break
        labels = spread
    values, counts = labels[labels > 0].unique(return_counts=True)
    order = counts.argsort(descending=True)
    return [labels[0, 0] == values[i] for i in order]


def grown(parts: list[Tensor], allowed: Tensor, steps: int = 3) -> list[Tensor]:
    """Parts spread over the allowed pixels around them; who comes first keeps a pixel."""
    labels = torch.zeros(allowed.shape)
    for number, part in enumerate(parts, 1):
        labels[part] = number
    for _ in range(steps):
        spread = functional.max_pool2d(labels[None, None], 3, 1, 1)[0, 0]
        labels = torch.where((labels == 0) & allowed, spread, labels)
    return [labels == number for number in range(1, len(parts) + 1)]


def blurred(x: Tensor) -> Tensor:
    """A picture [3, h, w] as soft as the autoencoder makes it: 1 2 1 in both directions."""
    row = torch.tensor([0.25, 0.5, 0.25])
    kernel = (row[:, None] * row).expand(3, 1, 3, 3)
    padded = functional.pad(x[None], (1, 1, 1, 1), mode="replicate")
    return functional.conv2d(padded, kernel, groups=3)[0]


def iou(a: Tensor, b: Tensor) -> float:
    """Intersection over union of two bool masks; 0 when both are empty."""
    union = int((a | b).sum())
    return int((a & b).sum()) / union if union else 0.0
