"""Strong augmentation of size and position: a smaller picture at a random place on a grey canvas.

Concept Weaver trains its concepts with it, so that they fit into regions of any size and place. The
numbers come from later code of the same first author (TweedieMix, diffusers_data_pipeline_xl.py:
119-150, commit da3e81b): a scale between a third and the whole, any place, zero around.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..checks import require_fraction
from ..rng import randint

SMALLEST = 1 / 3  # of the picture's side
CANVAS = 0.5  # grey, 0..1: zero in the VAE's -1..1


class Placed(NamedTuple):
    """A picture on its canvas, at the original size."""

    image: Tensor  # [H, W, 3], 0..1
    masks: Mapping[str, Tensor]  # name -> [H, W], 0..1
    valid: Tensor  # [H, W] 1 where the picture lies; the loss counts there only


def placed_smaller(
    image: Tensor,
    masks: Mapping[str, Tensor],
    generator: torch.Generator,
    smallest: float = SMALLEST,
) -> Placed:
    """The picture at a random scale and place; `smallest` 1 keeps it unchanged.

    Args:
        image: [H, W, 3], 0..1.
        masks: name -> [H, W], 0..1.
        generator: on the CPU.
        smallest: of the random scales, 0..1.
    """
    require_fraction("smallest", smallest)
    height, width = image.shape[:2]
    scale = smallest + (1 - smallest) * float(torch.rand((), generator=generator))
    inner = max(1, round(height * scale)), max(1, round(width * scale))
    top, left = randint(height - inner[0] + 1, generator), randint(width - inner[1] + 1, generator)
    rows, columns = slice(top, top + inner[0]), slice(left, left + inner[1])

    def placed(planes: Tensor, ground: float) -> Tensor:  # [C, H, W]
        if inner == (height, width):
            return planes.clone()
        canvas = torch.full_like(planes, ground)
        small = F.interpolate(planes[None], inner, mode="bilinear", antialias=True)[0]
        canvas[:, rows, columns] = small.clamp(0, 1)
        return canvas

    valid = torch.zeros(height, width)
    valid[rows, columns] = 1
    return Placed(
        placed(image.movedim(-1, 0), CANVAS).movedim(0, -1),
        {name: placed(mask[None], 0.0)[0] for name, mask in masks.items()},
        valid,
    )
