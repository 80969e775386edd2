"""Mask operations: dilation, erosion, blur, resizing.

Shared by training, regions, seams and previews.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

SAME_ASPECT = 0.02  # relative difference of two aspects up to which a mask is stretched to fit


def dilate(masks: Tensor, reach: int) -> Tensor:
    """The largest value within `reach` cells to every side: a square.

    Args:
        masks: [..., h, w].
        reach: 0 changes nothing.
    """
    if reach == 0:
        return masks
    planes, side = masks.reshape(-1, 1, *masks.shape[-2:]), 2 * reach + 1
    wide = F.max_pool2d(planes, (1, side), 1, (0, reach))
    return F.max_pool2d(wide, (side, 1), 1, (reach, 0)).reshape(masks.shape)


def erode(masks: Tensor, reach: int, *, beyond: float | None = None) -> Tensor:
    """The smallest value within `reach` cells to every side.

    Args:
        masks: [..., h, w].
        beyond: what lies beyond the border; None: nothing does, so the border is no edge.
    """
    if beyond is None or reach == 0:
        return -dilate(-masks, reach)
    padded = F.pad(masks, (reach,) * 4, value=beyond)
    return -dilate(-padded, reach)[..., reach:-reach, reach:-reach]


def open_mask(masks: Tensor, reach: int) -> Tensor:
    """Eroded, then dilated: what is thinner than `2 * reach + 1` cells goes, the rest stays."""
    return dilate(erode(masks, reach), reach)


def dilate_disc(masks: Tensor, radius: int) -> Tensor:
    """The largest value within a disc; beyond the border a mask goes on as it is there.

    A disc of a radius r holds the rows -r..r, each as long as the circle is there; the largest
    value of every row's stretch is a one-dimensional pooling, so it costs r and not r * r.

    Args:
        masks: [B, h, w].
    """
    padded = F.pad(masks[:, None], (radius,) * 4, mode="replicate")
    height = masks.shape[1]
    best: Tensor | None = None
    for row in range(-radius, radius + 1):
        half = int((radius**2 - row**2) ** 0.5)
        stretch = padded[:, :, radius + row : radius + row + height]
        inner = stretch[..., radius - half : stretch.shape[-1] - (radius - half)]
        pooled = F.max_pool2d(inner, (1, 2 * half + 1), stride=1)
        best = pooled if best is None else torch.maximum(best, pooled)
    assert best is not None
    return best[:, 0]


def erode_disc(masks: Tensor, radius: int) -> Tensor:
    """The smallest value within a disc; see `dilate_disc`."""
    return -dilate_disc(-masks, radius)


def blur(planes: Tensor, sigma: float, reach: int) -> Tensor:
    """Convolved with a Gaussian; beyond the border a plane goes on as it is there.

    Args:
        planes: [..., h, w].
        sigma: standard deviation, cells.
        reach: cells to every side after which the Gaussian is cut off.
    """
    offsets = torch.arange(-reach, reach + 1, device=planes.device, dtype=planes.dtype)
    kernel = (-0.5 * (offsets / sigma) ** 2).exp()
    kernel = kernel / kernel.sum()
    padded = F.pad(planes.reshape(-1, 1, *planes.shape[-2:]), (reach,) * 4, mode="replicate")
    across = F.conv2d(padded, kernel.view(1, 1, 1, -1))
    return F.conv2d(across, kernel.view(1, 1, -1, 1)).reshape(planes.shape)


def has_same_aspect(mask: tuple[int, int], picture: tuple[int, int]) -> bool:
    """Whether a mask (height, width) may be stretched to a picture (height, width)."""
    return abs((mask[1] / mask[0]) / (picture[1] / picture[0]) - 1) <= SAME_ASPECT


def resize_masks(masks: Tensor, size: tuple[int, int]) -> Tensor:
    """Masks [n, h, w] at another size, [n, *size]: bilinear, averaging where it becomes smaller."""
    return F.interpolate(masks[:, None], size, mode="bilinear", antialias=True)[:, 0]


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
