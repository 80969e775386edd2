"""The autoencoder of the bundled checkpoint by itself: the tiny transformers share it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from . import keys
from .checkpoint import read_checkpoint
from .model import ModelConfig, build_vae

if TYPE_CHECKING:
    from diffusers import AutoencoderKL


@dataclass(frozen=True, kw_only=True)
class Autoencoder:
    """Its part of a checkpoint.

    Attributes:
        weights: SD1's names without a prefix -> float16 tensors.
        config:  sizes; those of a UNet in it mean nothing here.
    """

    weights: dict[str, Tensor]
    config: ModelConfig

    @property
    def fingerprint(self) -> str:
        """What tells its latents from those of another autoencoder."""
        digest = hashlib.sha256()
        for name in sorted(self.weights):
            values = self.weights[name].half().contiguous().view(torch.int16).numpy()
            digest.update(name.encode() + values.tobytes())
        return digest.hexdigest()[:16]

    def network(self) -> AutoencoderKL:
        """In diffusers' class, float32, frozen."""
        named = {keys.VAE + name: tensor.float() for name, tensor in self.weights.items()}
        vae = build_vae(self.config)
        vae.load_state_dict(keys.vae_from_sd1(named, self.config))
        return vae.eval().requires_grad_(False)


def read_autoencoder() -> Autoencoder:
    """The autoencoder of the bundled checkpoint."""
    file = read_checkpoint()
    weights = {
        k.removeprefix(keys.VAE): v for k, v in file.weights.items() if k.startswith(keys.VAE)
    }
    return Autoencoder(weights=weights, config=file.config)
