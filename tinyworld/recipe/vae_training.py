"""Stage 1: the autoencoder."""

from __future__ import annotations

import copy
import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..model import ModelConfig, build_vae
from .fast import ready_for_training
from .loop import Team, TrainingBudget, train
from .shards import pictures_for_autoencoder
from .vae_start import LOG_VARIANCE, start_near_linear

log = logging.getLogger("conceptloom")

EDGE_WEIGHT = 0.4  # pull of the picture's differences, beside L1 + L2
KL_WEIGHT = 1e-3  # small: latents only have to stay near unit scale
HELD_OUT = 128  # samples of the last shard, for the figures
CROP = 64  # px; steps count more than pixels: 27.5 dB after two minutes on crops, 23.2 on wholes
RATE = 2e-3  # Muon moves the matrices; AdamW alone reaches 2.5 dB less


def to_tensor(pictures: NDArray[np.uint8], device: str = "cpu") -> Tensor:
    """uint8 [N, S, S, 3] -> float32 [N, 3, S, S] in -1..1, channels_last."""
    x = torch.from_numpy(np.array(pictures)).to(device).permute(0, 3, 1, 2)
    return (x.float() / 127.5 - 1).contiguous(memory_format=torch.channels_last)


def vae_loss(vae: nn.Module, x: Tensor, noise: Tensor) -> Tensor:
    """L1 + L2 + edges of the reconstruction, and a KL that pins the latents' scale.

    Args:
        x:     [B, 3, S, S]  pictures, -1..1.
        noise: [B, C, S/f, S/f]  unit variance.
    """
    posterior = vae.encode(x).latent_dist
    y = vae.decode(posterior.mean + posterior.std * noise).sample.float()
    error = y - x
    across, down = error[..., 1:] - error[..., :-1], error[..., 1:, :] - error[..., :-1, :]
    edges = across.abs().mean() + down.abs().mean()
    scale = (
        posterior.mean.square().mean() + 0.05 * (posterior.logvar - LOG_VARIANCE).square().mean()
    )
    return error.abs().mean() + error.square().mean() + EDGE_WEIGHT * edges + KL_WEIGHT * scale


def busy_crop(picture: NDArray[np.uint8], side: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Of three random squares of a picture [S, S, 3] the one where most happens.

    Small things have few pixels and most of the detail; plain squares would hide their loss.
    """
    last = (len(picture) - side) // 8 + 1
    squares = [picture[y : y + side, x : x + side] for y, x in rng.integers(0, last, (3, 2)) * 8]
    return max(
        squares, key=lambda s: float(np.abs(np.diff(s[::2, ::2].astype(np.int16), axis=1)).sum())
    )


@torch.no_grad()
def psnr(vae: nn.Module, pictures: NDArray[np.uint8], device: str = "cpu") -> float:
    """Reconstruction quality in dB over all pixels of the pictures (peak 255)."""
    error = []
    for start in range(0, len(pictures), 32):
        x = to_tensor(pictures[start : start + 32], device)
        y = vae.decode(vae.encode(x).latent_dist.mean).sample.clamp(-1, 1)
        error.append(((y - x) * 127.5).square().mean().item())
    return float(10 * np.log10(255**2 / np.mean(error)))


@torch.no_grad()
def even_out(vae: nn.Module, pictures: NDArray[np.uint8], device: str = "cpu") -> None:
    """Centre the latents' channels and bring their spreads nearer to each other; it decodes alike.

    The first channel comes out of training seven times as wide as the others, and a diffusion
    model with one scale for all would see the others drown in noise. Each spread becomes its square
    root. What `quant_conv` does to a channel, `post_quant_conv` undoes: nothing else changes.
    """
    latent = torch.cat(
        [
            vae.encode(to_tensor(pictures[i : i + 32], device)).latent_dist.mean
            for i in range(0, len(pictures), 32)
        ]
    )
    centre, gain = latent.mean((0, 2, 3)), latent.std((0, 2, 3)) ** -0.5
    after, before = vae.quant_conv, vae.post_quant_conv
    channels = len(gain)
    after.weight[:channels] *= gain[:, None, None, None]
    after.bias[:channels] = (after.bias[:channels] - centre) * gain
    after.bias[channels:] += 2 * gain.log()  # the log variance follows
    before.bias += before.weight[:, :, 0, 0] @ centre
    before.weight /= gain[None, :, None, None]


def train_vae(
    team: Team,
    config: ModelConfig,
    workdir: Path,
    minutes: float,
    batch: int,
    seed: int,
    workers: int = 0,
) -> None:
    """Train or go on training; the result lies in `workdir`/vae.pt (averaged weights)."""
    torch.manual_seed(seed)
    shards = pictures_for_autoencoder(workdir / "pictures", seed, config.resolution_px, workers)
    vae = build_vae(config)
    start_near_linear(vae, to_tensor(shards[0][:192]).contiguous())
    ready_for_training(vae.to(team.device), team.bfloat16)
    crop = min(CROP, config.resolution_px)
    side = crop // config.downscale

    def loss_of(step: int) -> Tensor:
        rng = np.random.default_rng((seed, 1, step, team.rank))
        shard = shards[int(rng.integers(len(shards)))]
        picked = np.sort(rng.choice(len(shard) - HELD_OUT, batch, replace=False))
        pictures = np.stack([busy_crop(picture, crop, rng) for picture in shard[picked]])
        if rng.random() < 0.5:
            pictures = pictures[:, :, ::-1]
        noise = rng.standard_normal((batch, config.latent_channels, side, side), np.float32)
        with torch.autocast(team.device, torch.bfloat16, enabled=team.bfloat16):
            return vae_loss(
                vae, to_tensor(pictures, team.device), torch.from_numpy(noise).to(team.device)
            )

    def on_save(modules: nn.ModuleDict, figures: dict[str, Any]) -> None:
        quality = psnr(vae, shards[-1][-HELD_OUT:], team.device)
        figures["psnr"] = round(quality, 2)
        log.info("autoencoder at minute %.1f: %.2f dB", figures["minutes"], quality)
        even = copy.deepcopy(vae)
        even_out(even, shards[0][:HELD_OUT], team.device)
        weights = {k: v.float().cpu() for k, v in even.state_dict().items()}
        torch.save({"vae": weights, "figures": figures}, workdir / "vae.pt")

    budget = TrainingBudget(
        minutes=minutes, learning_rate=RATE, falling=0.7 * minutes, save_minutes=3.0, muon=True
    )
    train(
        nn.ModuleDict({"vae": vae}), loss_of, budget, team, workdir / "vae_state.pt", on_save, 0.995
    )
