"""Random sampling for a training step, always on the CPU from that step's generator."""

from __future__ import annotations

import torch
from torch import Tensor

from .host.ports import Host


def randint(limit: int, generator: torch.Generator) -> int:
    """A whole number from 0 to limit - 1."""
    return int(torch.randint(limit, (), generator=generator))


def bernoulli(chance: float, generator: torch.Generator) -> bool:
    """True with a chance of 0..1."""
    return float(torch.rand((), generator=generator)) < chance


def sample_noise(host: Host, latent: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Noise [B, C, h, w] like the latents, and the path's t [B] for every row."""
    noise = torch.randn(latent.shape, generator=generator).to(latent)
    timesteps = host.noise_path.sample_t(latent.shape[0], generator)
    return noise, timesteps.to(latent.device)
