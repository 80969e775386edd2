"""Pictures as a model draws them: bent, blurred, off in colour, noisy. All on whole batches."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional


def bend(x: Tensor, side: int, rng: np.random.Generator, zoom: float = 1.0) -> Tensor:
    """Turn, scale, shift and bend pictures a little, and bring them to [B, C, side, side].

    Args:
        x:    [B, C, S, S]
        zoom: share of the picture that stays in sight.
    """
    count = len(x)
    angle, scale = rng.normal(0, 0.08, count), zoom * rng.uniform(0.92, 1.08, (2, count))
    shift = rng.uniform(-0.05, 0.05, (2, count))
    cos, sin = np.cos(angle), np.sin(angle)
    theta = np.stack([scale[0] * cos, -sin, shift[0], sin, scale[1] * cos, shift[1]], 1)
    matrix = torch.from_numpy(theta.reshape(count, 2, 3)).float()
    grid = functional.affine_grid(matrix, [count, 1, side, side], align_corners=False)
    coarse = torch.from_numpy(rng.standard_normal((count, 2, 4, 4), np.float32))
    strength = torch.from_numpy(rng.uniform(0, 0.03, (count, 1, 1, 1))).float()
    smooth = functional.interpolate(coarse, (side, side), mode="bicubic", align_corners=True)
    grid = grid + (smooth * strength).permute(0, 2, 3, 1)
    return functional.grid_sample(x, grid, padding_mode="border", align_corners=False)


def tint(x: Tensor, rng: np.random.Generator, strength: float = 1.0) -> Tensor:
    """Shift brightness and colour of pictures [B, 3, h, w] by a few percent."""
    count = len(x)
    gain = 1 + strength * rng.normal(0, 0.05, (count, 3, 1, 1)) * 0.7
    gain = gain * (1 + strength * rng.normal(0, 0.05, (count, 1, 1, 1)))
    lift = strength * rng.normal(0, 0.015, (count, 3, 1, 1))
    return x * torch.from_numpy(gain).float() + torch.from_numpy(lift).float()


def roughen(x: Tensor, rng: np.random.Generator, noise: float = 0.04) -> Tensor:
    """Blur pictures [B, 3, h, w] by up to a pixel and put noise on them."""
    soft = functional.avg_pool2d(functional.pad(x, (1, 1, 1, 1), mode="replicate"), 3, 1)
    share = torch.from_numpy(rng.uniform(-0.5, 1, (len(x), 1, 1, 1))).float().clamp(min=0)
    strength = torch.from_numpy(rng.uniform(0, noise, (len(x), 1, 1, 1))).float()
    grain = torch.from_numpy(rng.standard_normal(x.shape, np.float32))
    return torch.lerp(x, soft, share) + strength * grain
