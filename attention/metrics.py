"""Metrics of a word's attention: overlap with its object's mask, and leak."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor

from ..errors import MaskError


class LocalisationScores(NamedTuple):
    """Scores of one word; a plain pair, so that `viz` need not import this module.

    Attributes:
        iou: 0..1, 1 is best. The map above half of its maximum against the mask; known words reach
            0.4 to 0.6 on their own object and 0 on another (TinyWorld, 12 words, 16x16 maps).
        leak: 0 or more, 0 is best. Attention outside of the mask, relative to uniform
            attention: 0 = nothing outside, 1 = the mask is ignored, more = it is avoided.
            Known words have 0.8 to 0.9, because softmax is never zero; compare with
            that and with earlier steps. NaN, as `iou`, when the map is not finite.
    """

    iou: float
    leak: float


def attention_scores(map: Tensor, mask: Tensor) -> LocalisationScores:
    """Compare a word's attention with its mask.

    IoU: the map cut at half of its maximum, the mask at 0.5.
    Leak: (attention outside / all attention) / (area outside / whole area). The plain share alone
    penalises small objects: uniform attention has 95 % outside a mask that covers 5 %, and 50 %
    outside one that covers half. Soft masks count by their values.

    Args:
        map: [h, w] attention of one word, 0 or more, any scale.
        mask: [h, w] or [H, W], 0..1; of another size it is averaged over each cell of the map.

    Raises:
        MaskError: the map or the mask is not a plane of numbers.
    """
    if map.ndim != 2 or mask.ndim != 2:
        raise MaskError(
            f"The map has the shape {list(map.shape)} and the mask {list(mask.shape)}; scores "
            "need one map and one mask, both height x width. Pass one of the batch at a time."
        )
    heat = map.detach().float().cpu()
    inside = mask.detach().float().cpu().clamp(0, 1)
    if inside.shape != heat.shape:
        inside = F.interpolate(inside[None, None], heat.shape, mode="area")[0, 0]
    if not heat.isfinite().all():
        return LocalisationScores(math.nan, math.nan)
    if heat.max() <= 0:  # no attention at all finds nothing and prefers nothing
        return LocalisationScores(0.0, 1.0)

    hot, target = heat >= heat.max() / 2, inside >= 0.5
    iou = (hot & target).sum() / (hot | target).sum()  # the hottest cell is always in the union
    area_outside = float((1 - inside).mean())
    if area_outside == 0:
        return LocalisationScores(float(iou), 0.0)
    share_outside = float((heat * (1 - inside)).sum() / heat.sum())
    return LocalisationScores(float(iou), share_outside / area_outside)
