"""How well a map of attention points at a mask."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from .planes import at_side, iou


@dataclass(frozen=True, kw_only=True)
class Localisation:
    """How well a map points at a mask; 1 is perfect."""

    iou: float  # of the map above half of its range
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
    ranks = np.empty(values.numel())
    order = np.argsort(values.flatten().numpy(), kind="stable")
    ranks[order] = np.arange(1, values.numel() + 1)
    outside = truth.numel() - inside
    above_others = ranks[truth.flatten().numpy()].sum() - inside * (inside + 1) / 2
    return Localisation(
        iou=iou(above, truth),
        auc=float(above_others / (inside * outside)),
    )
