"""Pictures of LAG masks: where each concept's residual works."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from .colors import concept_colours
from .overlays import sample_strip

CELL_PX = 12  # smallest side of a cell of a block's map


def masks_picture(masks: Tensor, names: Sequence[str], image: Tensor | None = None) -> Tensor:
    """The masks of one picture, each in its concept's colour.

    Args:
        masks: [G, h, w] 0..1, one per name.
        names: handles without brackets.
        image: [H, W, 3], 0..1; dark outside the concepts. Without it the background is black.

    Returns:
        [H, W, 3] as large as the picture, or [h, w, 3].
    """
    colours = torch.tensor(list(concept_colours(names).values())) / 255  # [G, 3]
    if image is not None:
        size = tuple(image.shape[:2])
        masks = F.interpolate(masks[None].float(), size, mode="bilinear")[0]
    tint = torch.einsum("ghw,gc->hwc", masks.float(), colours).clamp(0, 1)
    if image is None:
        return tint
    inside = masks.amax(dim=0)[..., None].float()
    return (image * (0.25 + 0.6 * inside) + 0.15 * tint).clamp(0, 1)


def blocks_sheet(blocks: Mapping[str, Tensor], names: Sequence[str]) -> Tensor:
    """[H, W, 3] the mask of every block, cell by cell.

    Args:
        blocks: name of a block -> [P, G, h, w]; the first picture is shown.
    """
    pictures, captions = [], []
    for name, masks in blocks.items():
        height, width = masks.shape[-2:]
        cell = max(CELL_PX, CELL_PX * 16 // max(height, width))
        picture = masks_picture(masks[0], names)
        pictures.append(picture.repeat_interleave(cell, 0).repeat_interleave(cell, 1))
        captions.append(f"{name} ({width}x{height})")
    return sample_strip(pictures, captions, n_columns=4)
