"""Regions that divide a picture among concepts: their masks sum to 1 everywhere.

Concept Weaver (Kwon et al. 2024, arXiv 2404.03913), Step 4: dense masks bend what is drawn under
them, so they are dilated; where dilated masks overlap, the dense ones are kept; what no mask covers
is the background.

    dense   D_i     mask of a concept as it was painted or segmented
    wide    E_i     the same, dilated
    masks   M_i     what is used; M_bg = 1 - sum M_i comes last
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from enum import Enum

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import MaskError
from ..scenes.mask_strength import BARELY, emptiness, full_strength
from ..scenes.masks import dilate

log = logging.getLogger("conceptloom")

STEPS = 1024  # masks are whole multiples of 1/1024: their sums are exact, in float16 too
SMALLEST = 0.5 / STEPS  # a mask that nowhere reaches this is empty


class Priority(str, Enum):
    """Owner of an area that several concepts' masks cover."""

    FIRST = "first"  # the concept that comes first
    LAST = "last"  # the one that comes last, as layers painted over each other
    SHARED = "shared"  # all of them, in equal parts


def region_masks(
    dense: Sequence[Tensor], names: Sequence[str], *, dilate_px: int = 0,
    priority: Priority = Priority.FIRST,
) -> Tensor:  # fmt: skip
    """Masks of all concepts and, last, of the background; they sum to exactly 1.

    Source: paper, Step 4. It does not specify overlaps of the dense masks or the dilation:
    `priority` and `dilate_px` are ours.

    Args:
        dense: [H, W] each, 0..1, all of one size.
        names: of the concepts, for messages.
        dilate_px: how far masks grow to every side, in their own pixels.

    Returns:
        [N + 1, H, W] float32.

    Raises:
        MaskError: a mask is missing, empty, of another size, not a 2D tensor of numbers, or fully
            covered by others.
    """
    masks = _checked(dense, names)
    wide = dilate(masks, dilate_px)
    contested = (wide > SMALLEST).sum(dim=0) > 1  # where two or more dilated masks lie
    settled = _settled(torch.where(contested, masks, wide), priority)
    masks_and_background = with_background(settled)
    for name, mask in zip(names, masks_and_background, strict=False):
        if float(mask.max()) == 0:
            raise MaskError(
                f"Other regions with priority cover the region of {name} completely. Change the "
                "order or the priority, or separate the masks."
            )
    return masks_and_background


def at_grid(masks: Tensor, grid: tuple[int, int]) -> Tensor:
    """Regions [N + 1, H, W] at the size of a feature map, [N + 1, h, w]; sums stay exactly 1.

    Each cell is the mean of its area, so a thin region weakens but does not vanish.
    """
    if tuple(masks.shape[-2:]) == tuple(grid):
        return masks
    if grid[0] > masks.shape[-2] or grid[1] > masks.shape[-1]:
        resized = F.interpolate(masks[None], grid, mode="nearest")[0]
    else:
        resized = F.adaptive_avg_pool2d(masks[None], grid)[0]
    return _exact(resized)


def with_background(masks: Tensor) -> Tensor:
    """[N + 1, H, W]: the background is the rest; every sum is exactly 1.

    Args:
        masks: [N, H, W], 0..1, with sums of at most 1.
    """
    background = (1 - masks.sum(dim=0, keepdim=True)).clamp_min(0)
    return _exact(torch.cat([masks, background]))


def _exact(masks: Tensor) -> Tensor:
    """Whole multiples of 1/STEPS that sum to 1; the largest part takes up the rounding."""
    levels = (masks.float() * STEPS).round()
    rest = STEPS - levels.sum(dim=0, keepdim=True)
    largest = levels.argmax(dim=0, keepdim=True)
    return levels.scatter_add(0, largest, rest) / STEPS


def _settled(masks: Tensor, priority: Priority) -> Tensor:
    """Masks with sums of at most 1."""
    if priority is Priority.SHARED:
        return masks / masks.sum(dim=0, keepdim=True).clamp_min(1)
    order = range(len(masks)) if priority is Priority.FIRST else reversed(range(len(masks)))
    settled, free = torch.zeros_like(masks), torch.ones_like(masks[0])
    for i in order:
        settled[i] = torch.minimum(masks[i], free)
        free = free - settled[i]
    return settled


def _checked(dense: Sequence[Tensor], names: Sequence[str]) -> Tensor:
    if not names:
        raise MaskError("No region is connected; connect at least one concept with its mask.")
    if len(dense) != len(names):
        raise MaskError(
            f"{len(dense)} masks came for {len(names)} concepts ({', '.join(names)}); connect one "
            "for each, in the same order."
        )
    planes: list[Tensor] = []
    for name, mask in zip(names, dense, strict=True):
        plane = mask[0] if mask.ndim == 3 and mask.shape[0] == 1 else mask
        if plane.ndim != 2 or not plane.isfinite().all():
            raise MaskError(
                f"The mask of {name} has the shape {list(mask.shape)} or contains NaN; it must be "
                "height x width, with finite numbers from 0 to 1."
            )
        if planes and plane.shape != planes[0].shape:
            raise MaskError(
                f"The mask of {name} is {plane.shape[1]}x{plane.shape[0]} px, that of {names[0]} "
                f"{planes[0].shape[1]}x{planes[0].shape[0]} px; resize all masks to the same "
                "size."
            )
        strong, remark = full_strength(plane.float().clamp(0, 1), f"The mask of {name}", BARELY)
        planes.append(strong)
        if remark:
            log.warning("The mask of %s %s.", name, remark)
        if float(strong.max()) < SMALLEST:
            raise MaskError(f"The region of {name} is empty: {emptiness(mask)}")
    return torch.stack(planes)
