"""Stage 2: the latent diffusion model and its text encoder, trained together."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from . import grounding, keys
from .checkpoint import pack, read_checkpoint, row_of_token, write_checkpoint
from .data import (
    UNKNOWN_ROWS,
    caption_rows,
    open_images,
    read_captions,
    read_places,
    world_token_ids,
)
from .fast import ready_for_training, record_cross_attention
from .loop import Budget, Team, train
from .model import ModelConfig, build_scheduler, build_text_encoder, build_unet, build_vae
from .vae_training import to_tensor

log = logging.getLogger("conceptloom")

NO_CAPTION = 0.10  # share of samples without caption, for classifier-free guidance
STRANGE_WORD = 0.04  # share of samples with a word from outside the world put in
NOISY = 0.75  # timestep = 1000 u^NOISY for uniform u: a little more of the steps that decide layout


@torch.no_grad()
def encode_latents(team: Team, config: ModelConfig, workdir: Path) -> None:
    """Write unscaled latent means beside every shard of pictures: [SHARD, C, h, w] float16.

    Processes share the shards; those that are there already are left alone.
    """
    vae = build_vae(config)
    vae.load_state_dict(torch.load(workdir / "vae.pt", weights_only=True)["vae"])
    ready_for_training(vae.to(team.device).eval(), team.bfloat16)
    for index, shard in enumerate(open_images(workdir / "data")):
        path = workdir / "latents" / f"latents{index:04d}.npy"
        if index % team.size != team.rank or path.exists():
            continue
        path.parent.mkdir(exist_ok=True)
        means = []
        for start in range(0, len(shard), 50):
            with torch.autocast(team.device, torch.bfloat16, enabled=team.bfloat16):
                x = to_tensor(shard[start : start + 50], team.device)
                means.append(vae.encode(x).latent_dist.mean.float().cpu())
        np.save(path.with_suffix(".part.npy"), torch.cat(means).half().numpy())
        path.with_suffix(".part.npy").rename(path)


def load_samples(workdir: Path) -> tuple[Tensor, Tensor]:
    """All latents [N, C, h, w] float16, unscaled, and token rows [N, 77] int16."""
    parts = [np.load(p) for p in sorted((workdir / "latents").glob("latents????.npy"))]
    latents = torch.from_numpy(np.concatenate(parts))
    rows = row_of_token(world_token_ids(), UNKNOWN_ROWS).numpy()
    captions = read_captions(workdir / "data")[: len(latents)]
    return latents, torch.from_numpy(caption_rows(captions, rows))


def velocity_loss(predicted: Tensor, latent: Tensor, noise: Tensor, alpha_bar: Tensor) -> Tensor:
    """Mean squared error of the predicted velocity.

    Source: Salimans and Ho, arXiv 2202.00512, appendix D: v = alpha * noise - sigma * x0. Unlike
    noise it stays hard to guess at high noise, where the layout is decided.

    Args:
        predicted, latent, noise: [B, C, h, w], unit variance.
        alpha_bar: [B, 1, 1, 1], 0..1.
    """
    velocity = alpha_bar.sqrt() * noise - (1 - alpha_bar).sqrt() * latent
    return (predicted - velocity).square().mean()


def drop_words(rows: Tensor, unknown_from: int, rng: np.random.Generator) -> Tensor:
    """Token rows [B, 77] with some captions emptied and some strange words put in."""
    rows = rows.clone()
    for row in rows:
        dice = rng.random()
        words = int((row != 1).sum())  # start token and words; row 1 is the end token
        if dice < NO_CAPTION:
            row[1:] = 1
        elif dice < NO_CAPTION + STRANGE_WORD:
            at = int(rng.integers(1, words + 1))
            row[at + 1 :] = row[at:-1].clone()
            row[at] = unknown_from + int(rng.integers(UNKNOWN_ROWS))
    return rows


def load_weights(
    unet: nn.Module, text: nn.Module, start: Path
) -> tuple[ModelConfig, dict[str, Any]]:
    """Fill the networks from a checkpoint; its config and the figures of its training."""
    file = read_checkpoint(start)
    weights = {name: tensor.float() for name, tensor in file.weights.items()}
    prefix = "text_model." if hasattr(text, "text_model") else ""
    unet.load_state_dict(keys.unet_from_sd1(weights, file.config))
    text.load_state_dict(keys.text_from_sd1(weights, prefix), strict=False)
    return file.config, file.training


def save_autoencoder(start: Path, workdir: Path) -> None:
    """Take the autoencoder of a checkpoint instead of training one."""
    file = read_checkpoint(start)
    weights = {name: tensor.float() for name, tensor in file.weights.items()}
    figures = {
        "minutes": file.training["autoencoder_minutes"],
        "psnr": file.training["autoencoder_psnr"],
    }
    vae = keys.vae_from_sd1(weights, file.config)
    torch.save({"vae": vae, "figures": figures}, workdir / "vae.pt")


def train_diffusion(
    team: Team,
    config: ModelConfig,
    workdir: Path,
    minutes: float,
    batch: int,
    learning_rate: float,
    seed: int,
    start: Path | None = None,
) -> None:
    """Train or go on training; the result lies in `workdir`/tinyworld.safetensors.

    `start` is a checkpoint of the same sizes whose weights are the first ones.
    """
    torch.manual_seed(seed)
    latents, rows = load_samples(workdir)
    masks, item_of_token = (torch.from_numpy(part) for part in read_places(workdir / "data"))
    ids = world_token_ids()
    config = replace(config, scaling_factor=round(1 / latents[:4000].float().std().item(), 5))
    unet = build_unet(config)
    text = build_text_encoder(config, len(ids) + UNKNOWN_ROWS)
    earlier: dict[str, Any] = {}
    if start is not None:
        config, earlier = load_weights(unet, text, start)
    unet.to(team.device)
    text.to(team.device)
    text.set_attn_implementation("eager")
    ready_for_training(unet, team.bfloat16)
    maps = record_cross_attention(unet)
    alphas = build_scheduler(config).alphas_cumprod.to(team.device)
    spread = 0.06  # the autoencoder's posterior standard deviation, see vae_start

    def loss_of(step: int) -> Tensor:
        rng = np.random.default_rng((seed, 2, step, team.rank))
        picked = torch.from_numpy(rng.integers(len(latents), size=batch))
        mean = latents[picked].float().numpy()
        clean = (mean + spread * rng.standard_normal(mean.shape, np.float32)) * np.float32(
            config.scaling_factor
        )
        noise = torch.from_numpy(rng.standard_normal(mean.shape, np.float32)).to(team.device)
        latent = torch.from_numpy(clean).to(team.device)
        part = (np.arange(batch) * team.size + team.rank + rng.random(batch)) / (batch * team.size)
        timestep = torch.from_numpy((part**NOISY * len(alphas)).astype(np.int64)).to(team.device)
        alpha_bar = alphas[timestep][:, None, None, None]
        noisy = alpha_bar.sqrt() * latent + (1 - alpha_bar).sqrt() * noise
        whole = rows[picked].long()
        words = drop_words(whole, len(ids), rng)
        spoken = item_of_token[picked] * (words == whole).all(1, keepdim=True)
        maps.clear()
        with torch.autocast(team.device, torch.bfloat16, enabled=team.bfloat16):
            context = text(input_ids=words.to(team.device))[0]
            x = noisy.contiguous(memory_format=torch.channels_last)
            predicted = unet(x, timestep, context).sample.float()
        places = masks[picked].to(team.device).float() / 255
        # where almost all is noise nobody can know where the objects are
        grounded = grounding.grounding_loss(
            maps, places, spoken.to(team.device), alpha_bar.sqrt().flatten()
        )
        return velocity_loss(predicted, latent, noise, alpha_bar) + grounding.WEIGHT * grounded

    def on_save(modules: nn.ModuleDict, figures: dict[str, Any]) -> None:
        saved = torch.load(workdir / "vae.pt", weights_only=True)
        vae = build_vae(config)
        vae.load_state_dict(saved["vae"])
        training = {
            "samples": figures["steps"] * batch * team.size + earlier.get("samples", 0),
            "minutes": round(figures["minutes"] + earlier.get("minutes", 0), 1),
            "batch": batch * team.size,
            "learning_rate": learning_rate,
            "dataset": len(latents),
            "autoencoder_minutes": round(saved["figures"]["minutes"], 1),
            "autoencoder_psnr": saved["figures"]["psnr"],
            "losses": figures["losses"][:: max(1, len(figures["losses"]) // 60)],
        }
        file = pack(unet, text, vae, config, ids, UNKNOWN_ROWS, training)
        write_checkpoint(file, workdir / "tinyworld.safetensors")
        log.info("saved at minute %.1f, %d samples", figures["minutes"], training["samples"])

    budget = Budget(
        minutes=minutes,
        learning_rate=learning_rate,
        warmup_steps=200,
        weight_decay=1e-3,
        muon=True,
    )
    modules = nn.ModuleDict({"unet": unet, "text": text})
    train(modules, loss_of, budget, team, workdir / "diffusion_state.pt", on_save)
