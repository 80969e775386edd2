"""Files of tiny transformers with random weights, for the tests of both hosts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from conceptloom.tinyworld.autoencoder import read_autoencoder
from conceptloom.tinyworld.dit.checkpoint import write_dit
from conceptloom.tinyworld.dit.sizes import SIZES, DitConfig
from conceptloom.tinyworld.recipe.transformer_training import Networks


def small(family: str) -> DitConfig:
    """Sizes for tests; Z-Image's class cannot be narrower than 256."""
    scaling = read_autoencoder().config.scaling_factor
    width = {"anima": 96, "zimage": 256}[family]
    heads = {"anima": 3, "zimage": 4}[family]
    return replace(SIZES[family], width=width, heads=heads, layers=2, scaling=scaling)


@torch.no_grad()
def random_networks(family: str) -> Networks:
    """Networks whose every weight does something, and is the same in float16."""
    torch.manual_seed(3)
    networks = Networks(small(family))
    for parameter in networks.parameters():
        spread = 0.05 if parameter.ndim == 1 else 0.5 * parameter.shape[-1] ** -0.5
        parameter += spread * torch.randn(parameter.shape)
        parameter.copy_(parameter.half().float())
    return networks.eval()


def random_file(family: str, path: Path) -> Path:
    """Write such networks as a checkpoint."""
    file = random_networks(family).file({"samples": 0}, read_autoencoder().fingerprint)
    write_dit(file, path)
    return path
