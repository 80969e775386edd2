"""Measures by numbers alone: where a map points, what an edit changed around its object.

Masks and maps are [h, w]; pictures are [H, W, 3], 0..1 float or uint8, numpy or torch.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from .planes import at_side, iou


@dataclass(frozen=True, kw_only=True)
class Localisation:
    """How well a map points at a mask; 1 is perfect."""

    iou: float  # of the map above half of its range
    iou_area: float  # of as many of the map's largest values as the mask has pixels
    auc: float  # chance that a pixel inside beats one outside; 0.5 is guessing


def localisation(pointer: ArrayLike | Tensor, mask: ArrayLike | Tensor) -> Localisation:
    """How well a map [h, w] points at a mask of any size, at the map's resolution."""
    values = torch.as_tensor(np.array(pointer) if not isinstance(pointer, Tensor) else pointer)
    values = values.detach().cpu().float()
    truth = at_side(mask, values.shape[-1]) > 0.5
    inside = int(truth.sum())
    if inside == 0 or inside == truth.numel():
        raise ValueError("the mask covers nothing or everything at the map's resolution")
    low, high = values.min(), values.max()
    above = values > (low + high) / 2
    chosen = torch.zeros(truth.numel(), dtype=torch.bool)
    chosen[values.flatten().topk(inside).indices] = True
    ranks = np.empty(values.numel())
    order = np.argsort(values.flatten().numpy(), kind="stable")
    ranks[order] = np.arange(1, values.numel() + 1)
    outside = truth.numel() - inside
    above_others = ranks[truth.flatten().numpy()].sum() - inside * (inside + 1) / 2
    return Localisation(
        iou=iou(above, truth),
        iou_area=iou(chosen.view_as(truth), truth),
        auc=float(above_others / (inside * outside)),
    )


def background_change(
    before: ArrayLike | Tensor, after: ArrayLike | Tensor, edited: ArrayLike | Tensor
) -> tuple[float, float]:
    """Change of a picture where it was not edited: (PSNR in dB, largest difference 0..1).

    Compared at the pictures' own size; `edited` [H, W] marks what was allowed to change. The
    PSNR is infinite when nothing changed.
    """
    a, b = _unit(before), _unit(after)
    if a.shape != b.shape:
        raise ValueError(f"pictures differ in size: {a.shape} and {b.shape}; compare equals")
    outside = np.asarray(edited, dtype=np.float32) < 0.5
    difference = np.abs(a - b)[outside]
    error = float(np.square(difference).mean())
    return (float(-10 * np.log10(error)) if error else float("inf")), float(difference.max())


def _unit(image: ArrayLike | Tensor) -> NDArray[np.float32]:
    x = np.asarray(image.detach().cpu() if isinstance(image, Tensor) else image)
    return x.astype(np.float32) / (255 if x.dtype == np.uint8 else 1)
