"""The image encoder of TinyWorld's prior: a few convolutions with CLIP's inputs and outputs.

A vision transformer of this size tells colours but not shapes after minutes of training on a CPU;
convolutions tell both. To `vision.prior` it looks like transformers' CLIPVisionModelWithProjection.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import Conv2d, GroupNorm, Linear

GROUPS = 4


@dataclass(frozen=True, slots=True)
class VisionConfig:
    """What others ask the encoder for."""

    image_size: int  # px


@dataclass(frozen=True, slots=True)
class Seen:
    """What came of a batch of pictures."""

    image_embeds: Tensor  # [B, D], of any length


class TinyVision(nn.Module):
    """Standardised pictures [B, 3, S, S] -> embeddings [B, D].

    Args:
        side: S in px, a multiple of 16.
        channels: of the four layers, each of which halves the picture; multiples of 4.
        squeezed: channels of the last map before it is read as a vector.
        width: D.
    """

    def __init__(self, side: int, channels: tuple[int, ...], squeezed: int, width: int) -> None:
        super().__init__()
        self.config = VisionConfig(side)
        layers: list[nn.Module] = []
        for inputs, outputs in zip((3, *channels), channels, strict=False):
            layers += [Conv2d(inputs, outputs, 3, 2, 1), GroupNorm(GROUPS, outputs), nn.SiLU()]
        layers += [Conv2d(channels[-1], squeezed, 1), nn.SiLU(), nn.Flatten()]
        self.body = nn.Sequential(*layers)
        cells = (side // 2 ** len(channels)) ** 2
        self.projection = Linear(squeezed * cells, width)

    @property
    def dtype(self) -> torch.dtype:
        return self.projection.weight.dtype

    def forward(self, pixel_values: Tensor) -> Seen:
        return Seen(self.projection(self.body(pixel_values)))
