"""The oracle's two small networks: one finds the objects of a picture, one describes an object.

Trained on the renderer alone (`oracle_training`); together about 0.3 MB in float16.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import Conv2d, GroupNorm, Linear, functional

from .shapes import BACKGROUNDS, COLOURS, SHAPES, TEXTURES

SIDE = 64  # px; every picture is brought to this size first
CROP = 32  # px; every found object is brought to this size
EMBEDDING = 64
OTHER = "other"  # no colour or shape of the vocabulary
COLOUR_NAMES = (*COLOURS, OTHER)
SHAPE_NAMES = (*SHAPES, OTHER)
TEXTURE_NAMES = TEXTURES
BACKGROUND_NAMES = tuple(BACKGROUNDS)
WEIGHTS = Path(__file__).parent / "oracle.safetensors"


def _layer(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(Conv2d(inputs, outputs, 3, stride, 1), GroupNorm(4, outputs), nn.SiLU())


class Finder(nn.Module):
    """Where the objects are, and which background lies behind them."""

    def __init__(self) -> None:
        super().__init__()
        self.first = _layer(3, 16)
        self.down1 = nn.Sequential(_layer(16, 24, 2), _layer(24, 24))
        self.down2 = nn.Sequential(_layer(24, 32, 2), _layer(32, 32))
        self.down3 = nn.Sequential(_layer(32, 48, 2), _layer(48, 48))
        self.up2 = _layer(48 + 32, 32)
        self.up1 = _layer(32 + 24, 24)
        self.up0 = _layer(24 + 16, 16)
        self.mask = Conv2d(16, 1, 1)
        self.background = Linear(48 + 6, len(BACKGROUND_NAMES))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """[B, 3, 64, 64] in 0..1 -> mask logits [B, 64, 64], background logits [B, 8]."""
        mask, features = self.look(x)
        return mask, self.background(features)

    def look(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mask logits [B, 64, 64], and what the background is read from, [B, 54].

        That is the deepest layer's mean, and mean and spread of the colours beside the objects:
        the norms inside take a dark picture's brightness away.
        """
        a = self.first(x - 0.5)
        b = self.down1(a)
        c = self.down2(b)
        d = self.down3(c)
        deepest = d.mean((2, 3))
        c = self.up2(torch.cat([functional.interpolate(d, scale_factor=2.0), c], 1))
        b = self.up1(torch.cat([functional.interpolate(c, scale_factor=2.0), b], 1))
        a = self.up0(torch.cat([functional.interpolate(b, scale_factor=2.0), a], 1))
        mask = self.mask(a)
        beside = (mask < 0).float()
        count = beside.sum((2, 3)).clamp(min=1)
        mean = (x * beside).sum((2, 3)) / count
        spread = ((x - mean[..., None, None]).square() * beside).sum((2, 3)) / count
        return mask[:, 0], torch.cat([deepest, 10 * mean, 10 * spread.sqrt()], 1)


class Describer(nn.Module):
    """What one object looks like: an embedding for identity, and the vocabulary's words."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            _layer(4, 24), _layer(24, 32, 2), _layer(32, 48), _layer(48, 64, 2), _layer(64, 64, 2)
        )
        self.embedding = Linear(64 * 16, EMBEDDING)
        self.colour = Linear(EMBEDDING, len(COLOUR_NAMES))
        self.shape = Linear(64 * 16, len(SHAPE_NAMES))
        self.texture = Linear(64 * 16, len(TEXTURE_NAMES))

    def forward(self, crops: Tensor) -> dict[str, Tensor]:
        """[B, 4, 32, 32] (colours 0..1 and mask) -> unit embedding [B, 64] and word logits."""
        flat = self.body(crops - 0.5).flatten(1)
        embedding = functional.normalize(self.embedding(flat), dim=1)
        return {
            "embedding": embedding,
            "colour": self.colour(8 * embedding),
            "shape": self.shape(flat),
            "texture": self.texture(flat),
        }


def crop_object(image: Tensor, mask: Tensor, margin: float = 0.08) -> Tensor:
    """The object on gray, centred and scaled to [4, 32, 32]; the fourth channel is its mask.

    Args:
        image: [3, S, S]  0..1.
        mask:  [S, S]  0..1, not empty above 0.5.
    """
    rows, columns = torch.where(mask > 0.5)
    top, bottom = int(rows.min()), int(rows.max()) + 1
    left, right = int(columns.min()), int(columns.max()) + 1
    half = max(bottom - top, right - left) * (0.5 + margin)
    size = image.shape[-1]
    at = torch.linspace(-half, half, CROP + 1)[:-1] + half / CROP
    y, x = (top + bottom) / 2 + at, (left + right) / 2 + at
    grid = torch.stack(torch.meshgrid(x, y, indexing="xy"), -1)[None] * 2 / size - 1
    soft = mask[None]
    framed = torch.cat([image * soft + 0.5 * (1 - soft), soft])[None]
    inside = torch.cat([framed[:, :3] - 0.5, framed[:, 3:]], 1)  # so that padding is gray too
    cut = functional.grid_sample(inside, grid.float(), align_corners=False)[0]
    return torch.cat([cut[:3] + 0.5, cut[3:]])
