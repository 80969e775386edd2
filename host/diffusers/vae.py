"""Pictures and latents with any autoencoder of diffusers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..pictures import check_picture, planes_of
from .placement import compute_dtype, execution_device, in_sound_precision


def encoded(vae: Any, image: Tensor, pixels_per_latent: int) -> Tensor:
    """Latents [B, C, h, w] in the network's units (mean of the posterior), float32."""
    check_picture(image, pixels_per_latent)
    with in_sound_precision(vae):
        pixels = _on(vae, planes_of(image) * 2 - 1)
        if not has_time(vae):
            latent = vae.encode(pixels).latent_dist.mean
        else:  # several pictures would be a film
            rows = [vae.encode(row[None, :, None]).latent_dist.mean for row in pixels]
            latent = torch.cat(rows)[:, :, 0]
    return scaled(vae, latent.float())


def decoded(vae: Any, latent: Tensor) -> Tensor:
    """Pictures [B, H, W, 3], 0..1, on the CPU."""
    with in_sound_precision(vae):
        latent = _on(vae, scaled(vae, latent.detach().float(), back=True))
        if not has_time(vae):
            pixels = vae.decode(latent).sample
        else:
            pixels = torch.cat([vae.decode(row[None, :, None]).sample[:, :, 0] for row in latent])
    return (pixels.float() / 2 + 0.5).clamp(0, 1).movedim(1, -1).cpu()


def scaled(vae: Any, latent: Tensor, *, back: bool = False) -> Tensor:
    """Latents [B, C, h, w] of a VAE in the network's units, or the other way."""
    config = vae.config
    if has_time(vae):
        mean, std = (
            torch.tensor(numbers).to(latent).view(1, -1, 1, 1)
            for numbers in (config.latents_mean, config.latents_std)
        )
        return latent * std + mean if back else (latent - mean) / std
    shift, factor = getattr(config, "shift_factor", None) or 0.0, config.scaling_factor
    return latent / factor + shift if back else (latent - shift) * factor


def has_time(vae: Any) -> bool:
    """Whether a VAE encodes films, of which a picture is one with a single frame."""
    return hasattr(vae.config, "dim_mult")


def downscale_of(vae: Any) -> int:
    """Pixels on each side of a latent cell."""
    config = vae.config
    return 2 ** (len(config.dim_mult if has_time(vae) else config.block_out_channels) - 1)


def _on(vae: Any, tensor: Tensor) -> Tensor:
    return tensor.to(execution_device(vae), compute_dtype(vae))
