"""Masks of a picture for blended sampling: at the size of the latents, and at the seam.

mask   -> m     1 = redrawn, 0 = the source picture stays; soft values are a mixture
"""

from __future__ import annotations

import logging

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import ImageError, MaskError
from ..scenes.mask_strength import BARELY, emptiness, full_strength
from ..scenes.masks import erode, has_same_aspect, resize_masks

log = logging.getLogger("conceptloom")


def picture_masks(masks: Tensor, size_px: tuple[int, int]) -> Tensor:
    """Masks [n, H, W], 0..1, float32 on the CPU, at the size of their picture.

    Args:
        masks: [H, W] or [n, H, W]; other sizes with the same aspect are resized, and
            a nearly black mask is scaled to a maximum of 1.

    Raises:
        MaskError: a mask is empty, has another aspect ratio, is not a 2D tensor of finite numbers,
            or is a label picture with several classes.
    """
    planes = masks.detach().float().cpu()
    planes = planes[None] if planes.ndim == 2 else planes
    if planes.ndim != 3 or 0 in planes.shape:
        raise MaskError(f"The mask has the shape {list(masks.shape)}; it must be a MASK [n, H, W].")
    if not planes.isfinite().all():
        raise MaskError("The mask contains NaN or infinite values; check the node that made it.")
    planes = torch.stack(
        [_strong(plane, number, len(planes)) for number, plane in enumerate(planes, 1)]
    )
    height, width = planes.shape[1:]
    if (height, width) != tuple(size_px):
        check_aspect((height, width), size_px)
        planes = resize_masks(planes, size_px)
    return planes.clamp(0, 1)


def _strong(plane: Tensor, number: int, n_planes: int) -> Tensor:
    which = f"Mask {number} of {n_planes}" if n_planes > 1 else "The mask"
    strong, remark = full_strength(plane.clamp(0, 1), which, BARELY)
    if remark:
        log.warning("%s %s.", which, remark)
    if not bool(strong.any()):
        raise MaskError(f"{which} is empty: {emptiness(plane)}")
    return strong


def check_aspect(mask: tuple[int, int], picture: tuple[int, int], unit: str = "") -> None:
    """Check that a mask (H, W) has the aspect ratio of a picture (H, W) or of latents.

    Args:
        unit: unit of the picture's size, if it is not pixels.

    Raises:
        MaskError: they differ in aspect.
    """
    if not has_same_aspect(mask, picture):
        raise MaskError(
            f"The mask is {mask[1]}x{mask[0]} but the picture {picture[1]}x{picture[0]}{unit}; "
            "they need the same aspect. Make the mask on this picture, or crop both the same way."
        )


def latent_masks(masks: Tensor, latent_size: tuple[int, int]) -> Tensor:
    """Masks [n, 1, h, w] of latents: coverage of each cell.

    Differs from CLiC's official code, which resizes bicubically (transfer.py), and from Blended
    Latent Diffusion's, which takes the nearest pixel. The mean keeps thin strokes, too, and its
    values stay in 0..1.

    Args:
        masks: [n, H, W] from `picture_masks`.
    """
    return F.interpolate(masks[:, None], latent_size, mode="area").clamp(0, 1)


def region_weights(masks: Tensor) -> Tensor:
    """Weights [n, 1, h, w] of the regions' predictions, summing to 1 in every cell.

    Overlapping masks share a cell in proportion to their values; cells without a mask are shared
    equally.
    """
    total = masks.sum(dim=0, keepdim=True)
    return torch.where(
        total > 0, masks / total.clamp_min(1e-12), torch.full_like(masks, 1 / len(masks))
    )


def seam(mask: Tensor, feather_px: int) -> Tensor:
    """Weight [H, W] of the drawn picture: the mask with a ramp inside its edge.

    It is 0 where the mask is 0, so the source stays exact there. The border of the picture is not
    an edge.

    Args:
        mask: [H, W], 0..1.
        feather_px: width of the ramp; 0 cuts along the mask.
    """
    total = shrunk = mask.float()
    for _ in range(feather_px):
        shrunk = erode(shrunk, 1)
        total = total + shrunk
    return total / (feather_px + 1)


def composited(drawn: Tensor, source: Tensor, mask: Tensor, feather_px: int) -> Tensor:
    """Pictures [B, H, W, 3] that equal the source, bit for bit, wherever the mask is 0.

    A VAE changes all pixels, even where latents did not change; this reverts it.

    Args:
        drawn: [B, H, W, 3] decoded pictures, 0..1.
        source: [1 or B, H, W, 3] the picture that was edited.
        mask: [H, W], 0..1.

    Raises:
        ImageError: the two pictures differ in size.
    """
    if drawn.shape[1:] != source.shape[1:]:
        raise ImageError(
            f"The drawn picture is {drawn.shape[2]}x{drawn.shape[1]} and the source "
            f"{source.shape[2]}x{source.shape[1]}; both must have the same size. Resize one of "
            "them."
        )
    weight = seam(mask, feather_px).to(drawn)[None, ..., None]
    source = source.to(drawn)
    return torch.where(weight > 0, source + weight * (drawn - source), source)
