"""Regions of localised LoRAs, located by the base model's own attention.

    attention  A_g   how much each position looks at the words of LoRA g, which the base model knows
    rel        R_g   A_g, blurred, from 0 at its smallest to 1 at its largest value
    masks      M_g   sigmoid((R_g - threshold) / softness), grown; overlaps go to the larger R_g

Masks are [pictures P, LoRAs G, h, w], 0..1, and their sum over the LoRAs is at most 1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import ConfigError
from ..host.ports import AttentionSite, Place, UNetSites
from ..scenes.masks import blur, dilate

BLUR = 1 / 32  # standard deviation, of the shorter side of the grid
SOFTNESS = 0.1  # width of a mask's edge, of the range of its attention
FAINTEST = 0.02  # of a mask; what is less is nothing, and its positions need no text of their own
REMEMBERED = 0.5  # share of the steps before in the attention of a step


class MaskMeans(str, Enum):
    """What a painted mask says about its LoRA."""

    EXACTLY = "exactly here"  # the mask is where the LoRA works, from the first step on
    SOMEWHERE = "somewhere in here"  # the words are looked for inside of the mask


@dataclass(frozen=True, kw_only=True, slots=True)
class Cut:
    """How a mask is made of attention."""

    threshold: float = 0.45  # of the range of the attention: less is a larger mask
    grow: float = 0.06  # how far a mask grows to every side, of the shorter side of the grid
    grow_by_size: float = 0.0  # and of the radius of a disc as large as the mask

    def __post_init__(self) -> None:
        for name, most in (("threshold", 1), ("grow", 0.5), ("grow_by_size", 1)):
            if not 0 <= getattr(self, name) <= most:
                raise ConfigError(name, getattr(self, name), f"between 0 and {most}")


def finding_sites(sites: UNetSites) -> list[AttentionSite]:
    """Cross-attentions that words are found in: those on the way up with the finest maps, or of the
    blocks that locate words best.
    """
    cross = sites.cross_attentions
    if sites.finders:
        return [site for site in cross if site.block in sites.finders]
    rising = [site for site in cross if site.block.place is Place.UP] or cross
    finest = min((site.downsample for site in rising), default=0)
    return [site for site in rising if site.downsample == finest]


def levelled(attention: Tensor) -> Tensor:
    """Attention [..., N] of one layer over its mean, so that all layers count alike."""
    return attention / attention.mean(dim=-1, keepdim=True).clamp_min(1e-12)


def relative(attention: Tensor) -> Tensor:
    """R: attention [P, G, h, w], blurred, on a scale of its own from 0 to 1."""
    sigma = BLUR * min(attention.shape[-2:])
    smooth = blur(attention, sigma, max(1, math.ceil(2 * sigma)))
    flat = smooth.flatten(2)
    low, high = (flat.amin(-1)[..., None, None], flat.amax(-1)[..., None, None])
    return (smooth - low) / (high - low).clamp_min(1e-12)


def cut_masks(attention: Tensor, cuts: Sequence[Cut]) -> Tensor:
    """Masks of LoRAs that were found.

    Args:
        attention: [P, G, h, w], 0 or more; a plane of zeros was not found and gets no mask.
        cuts: one for each LoRA.
    """
    rel = relative(attention)
    planes = [
        _grown(((rel[:, g] - cut.threshold) / SOFTNESS).sigmoid(), cut)
        for g, cut in enumerate(cuts)
    ]
    masks = torch.stack(planes, dim=1)
    masks = masks * (masks > FAINTEST) * (attention.amax((-2, -1), keepdim=True) > 0)
    if len(cuts) == 1:
        return masks
    # A place that is inside of one mask alone is that one's, however weak its own attention is.
    strongest = (rel + 2 * (masks > 0.5)).argmax(dim=1, keepdim=True)
    return torch.zeros_like(masks).scatter_(1, strongest, masks.gather(1, strongest))


def _grown(masks: Tensor, cut: Cut) -> Tensor:
    """Masks [P, h, w], wider to every side; each by its own size where that is asked for."""
    reach = cut.grow * min(masks.shape[-2:])
    if not cut.grow_by_size:
        return dilate(masks, round(reach))
    radii = ((masks > 0.5).sum((-2, -1)) / math.pi).sqrt().tolist()
    return torch.stack(
        [
            dilate(mask, round(reach + cut.grow_by_size * radius))
            for mask, radius in zip(masks, radii, strict=True)
        ]
    )


def settled(located: Tensor, exact: Tensor, is_exact: Sequence[bool]) -> Tensor:
    """Masks of all LoRAs: painted ones first, shared out where they overlap; found ones beside.

    Args:
        located: [P, G, h, w] of `cut_masks`; planes of painted ones do not count.
        exact: [1, G, h, w] painted masks on the same grid; other planes do not count.
        is_exact: which are painted.
    """
    painted = torch.tensor(is_exact, device=located.device)[None, :, None, None]
    exact = torch.where(painted, exact, 0.0)
    total = exact.sum(dim=1, keepdim=True)
    exact = exact / total.clamp_min(1)
    return torch.where(painted, exact, located * (1 - total.clamp_max(1)))


def on_grid(masks: Tensor, grid: tuple[int, int]) -> Tensor:
    """Masks [P, G, H, W] on another grid: each cell takes the mean of what it covers."""
    return (
        masks if tuple(masks.shape[-2:]) == tuple(grid) else F.interpolate(masks, grid, mode="area")
    )
