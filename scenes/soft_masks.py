"""Soft masks: the shape of a region, and the weight of its surroundings."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import torch
from torch import Tensor

from ..checks import require_fraction, require_positive, require_whole
from ..errors import ConfigError, MaskError
from .mask_strength import emptiness, full_strength
from .masks import blur, dilate_disc, erode_disc, mask_on_grid

log = logging.getLogger("conceptloom")

FEATHER_REACH = 3.0  # a Gaussian is cut off after so many standard deviations


@dataclass(frozen=True, kw_only=True, slots=True)
class SoftMaskConfig:
    """How a mask is shaped, in the order in which it happens; the defaults leave it as it is."""

    invert: bool = False
    threshold: float | None = None  # 0..1; None keeps grey values
    grow_px: int = 0  # added on all sides; below 0 taken away
    feather_px: float = 0.0  # standard deviation of the blur of the edge
    background_weight: float = 0.5  # alpha of CLiC, of M_soft only

    def __post_init__(self) -> None:
        if self.threshold is not None:
            require_fraction("threshold", self.threshold)
        require_whole("grow", abs(self.grow_px), least=0)
        require_positive("feather", self.feather_px, zero=True)
        require_fraction("background_weight", self.background_weight)


def soft_mask(mask: Tensor, background_weight: float) -> Tensor:
    """M_soft = a + (1 - a) M: 1 in the region, a around it.

    Source: CLiC, paper Sec. 3.1, a = 0.5.

    Args:
        mask: any shape, 0..1.
        background_weight: a, 0..1. 0 is the mask itself, 1 forgets it.
    """
    return background_weight + (1 - background_weight) * mask


def shaped_mask(masks: Tensor, config: SoftMaskConfig) -> Tensor:
    """Masks inverted, cut at a threshold, grown or shrunk, and feathered; not yet softened.

    Growing and shrinking go in all directions alike (a disc), so a corner becomes round. Beyond
    the picture's border a mask goes on as it is at the border. Without a threshold, faint masks are
    stretched first.

    Args:
        masks: [B, H, W] or [H, W], 0..1.

    Returns:
        [B, H, W], 0..1.

    Raises:
        MaskError: the masks are not planes of numbers, nothing of one is left, it was empty, or it
            is a label picture of several classes.
    """
    shaped = checked_masks(masks)
    if config.threshold is None:
        shaped, remarks = strengthened(shaped)
        for remark in remarks:
            log.warning("%s", remark)
    if config.invert:
        shaped = 1 - shaped
    if config.threshold is not None:
        shaped = (shaped > config.threshold).float()
    was_empty = shaped.amax(dim=(1, 2)) == 0
    if config.grow_px:
        disc = dilate_disc if config.grow_px > 0 else erode_disc
        shaped = disc(shaped, abs(config.grow_px))
    if config.feather_px:
        reach = max(1, round(FEATHER_REACH * config.feather_px))
        shaped = blur(shaped, config.feather_px, reach).clamp(0, 1)
    for number, plane in enumerate(shaped):
        if plane.max() == 0:
            why = (
                _why_empty(masks if masks.ndim == 2 else masks[number])
                if was_empty[number]
                else f"is empty after shrinking by {-config.grow_px} px; shrink it less"
            )
            raise MaskError(f"Mask {number + 1} {why}.")
    return shaped


def _why_empty(mask: Tensor) -> str:
    if float(mask.max()) > 0:
        return "is empty; lower the threshold, or turn invert off"
    return f"is empty: {emptiness(mask)}".rstrip(".")


def strengthened(masks: Tensor) -> tuple[Tensor, list[str]]:
    """Masks [B, H, W] at full strength, and a sentence for each that was faint."""
    strong = [full_strength(mask, f"Mask {n}") for n, mask in enumerate(masks, 1)]
    remarks = [f"Mask {n} {remark}." for n, (_, remark) in enumerate(strong, 1) if remark]
    return torch.stack([mask for mask, _ in strong]), remarks


def checked_masks(masks: Tensor) -> Tensor:
    """[B, H, W] float32, 0..1, copied.

    Raises:
        MaskError: something else came.
    """
    if masks.ndim == 2:
        masks = masks[None]
    if masks.ndim != 3 or not masks.numel():
        raise MaskError(
            f"The mask has the shape {list(masks.shape)}; it must be height x width, or a batch "
            "of them."
        )
    if not masks.isfinite().all():
        raise MaskError("The mask contains NaN or infinite values; check the node that made it.")
    return masks.detach().float().clamp(0, 1)


@dataclass(frozen=True, slots=True)
class GridWeights:
    """What is left of a soft mask on a grid of the model."""

    weights: Tensor  # [h, w], a..1
    inside: float  # mean weight where the mask is above a half; NaN where it nowhere is
    outside: float  # mean weight elsewhere; NaN where there is no elsewhere
    share: float  # of the grid that lies inside, 0..1


def weights_on_grid(mask: Tensor, size: tuple[int, int], background_weight: float) -> GridWeights:
    """The weights that CLiC's context loss gives each cell of a grid.

    Args:
        mask: [H, W], 0..1, not softened.
        size: (h, w) of the grid.
        background_weight: a.
    """
    if min(size) < 1:
        raise ConfigError("grid", size, "at least one cell high and wide")
    coarse = mask_on_grid(mask, size, "bilinear")
    weights = soft_mask(coarse, background_weight)
    is_inside = coarse > 0.5
    return GridWeights(
        weights,
        float(weights[is_inside].mean()),
        float(weights[~is_inside].mean()),
        float(is_inside.float().mean()),
    )
