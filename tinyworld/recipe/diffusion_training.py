"""Stage 2: the latent diffusion model and its text encoder, trained together."""

from __future__ import annotations

import copy
import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from .. import keys
from ..checkpoint import pack, read_checkpoint, write_checkpoint
from ..model import ModelConfig, build_scheduler, build_text_encoder, build_unet, build_vae
from . import grounding
from .fast import ready_for_training, record_cross_attention
from .loop import Team, TrainingBudget, train
from .shards import SHARD, UNKNOWN_ROWS, Encode, Shards, world_token_ids
from .vae_training import to_tensor

log = logging.getLogger("conceptloom")

EMA_DECAY = 0.9995  # of the weights that are saved
ENCODED_AT_ONCE = 50  # pictures
NO_CAPTION = 0.10  # share of samples without caption, for classifier-free guidance
STRANGE_WORD = 0.04  # share of samples with a word from outside the world put in
NOISY = 0.75  # timestep = 1000 u^NOISY for uniform u: a little more of the steps that decide layout


def encoder(vae: nn.Module, team: Team) -> Encode:
    """A function that makes unscaled latent means, float16, of pictures [N, S, S, 3]."""
    ready_for_training(vae.to(team.device).eval(), team.bfloat16)

    @torch.no_grad()
    def encode(pictures: NDArray[np.generic]) -> NDArray[np.float16]:
        means = []
        for start in range(0, len(pictures), ENCODED_AT_ONCE):
            with torch.autocast(team.device, torch.bfloat16, enabled=team.bfloat16):
                x = to_tensor(pictures[start : start + ENCODED_AT_ONCE], team.device)
                means.append(vae.encode(x).latent_dist.mean.float().cpu())
        return torch.cat(means).half().numpy()

    return encode


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
    unet: nn.Module, text: nn.Module, start: Path, token_ids: list[int]
) -> ModelConfig:
    """Fill the networks from a checkpoint; the sizes of its networks."""
    file = read_checkpoint(start)
    if file.token_ids != token_ids:
        raise ValueError(
            f"{start} was trained on {len(file.token_ids)} token rows, this world has "
            f"{len(token_ids)} or others; start from a checkpoint of the same vocabulary"
        )
    weights = {name: tensor.float() for name, tensor in file.weights.items()}
    prefix = "text_model." if hasattr(text, "text_model") else ""
    unet.load_state_dict(keys.unet_from_sd1(weights, file.config))
    text.load_state_dict(keys.text_from_sd1(weights, prefix), strict=False)
    return file.config


def save_autoencoder(start: Path, workdir: Path) -> ModelConfig:
    """Take the autoencoder of a checkpoint instead of training one; the sizes of its networks."""
    file = read_checkpoint(start)
    weights = {name: tensor.float() for name, tensor in file.weights.items()}
    figures = {
        "minutes": file.training["autoencoder_minutes"],
        "psnr": file.training["autoencoder_psnr"],
    }
    vae = keys.vae_from_sd1(weights, file.config)
    torch.save({"vae": vae, "figures": figures}, workdir / "vae.pt")
    return file.config


@dataclass(frozen=True, kw_only=True)
class DiffusionTask:
    """What `train_diffusion` is asked to do."""

    workdir: Path
    minutes: float
    falling: float
    batch: int  # of each process
    learning_rate: float
    seed: int
    workers: int = 0  # processes that render ahead
    start: Path | None = None  # a checkpoint of the same sizes whose weights are the first ones

    @property
    def budget(self) -> TrainingBudget:
        """How long and how hard its networks are trained."""
        return TrainingBudget(
            minutes=self.minutes,
            falling=self.falling,
            learning_rate=self.learning_rate,
            warmup_steps=200,
            weight_decay=1e-3,
            muon=True,
        )


class Trainer:
    """The networks, what they are fed, and the loss of a step."""

    def __init__(self, team: Team, config: ModelConfig, task: DiffusionTask) -> None:
        torch.manual_seed(task.seed)
        self.team, self.task, self.ids = team, task, world_token_ids()
        self.saved = torch.load(task.workdir / "vae.pt", weights_only=True)
        self.earlier = read_checkpoint(task.start).training if task.start is not None else {}
        self.before: int = self.earlier.get("samples", 0)
        self.vae = build_vae(config)
        self.vae.load_state_dict(self.saved["vae"])
        self.shards = Shards(
            task.workdir / "shards",
            encoder(copy.deepcopy(self.vae), team),
            task.seed,
            config.resolution_px,
            begin=self.before,
            workers=task.workers,
            mine=lambda index: index % team.size == team.rank,
        )
        first = self.shards.batch(self.before, 2000, np.random.default_rng(task.seed)).pictures
        scale = round(float(1 / first.astype(np.float32).std()), 5)
        config = replace(config, scaling_factor=scale)
        self.unet = build_unet(config)
        self.text = build_text_encoder(config, len(self.ids) + UNKNOWN_ROWS)
        if task.start is not None:
            config = load_weights(self.unet, self.text, task.start, self.ids)
        self.config = config
        self.unet.to(team.device)
        self.text.to(team.device)
        self.text.set_attn_implementation("eager")
        ready_for_training(self.unet, team.bfloat16)
        self.maps = record_cross_attention(self.unet)
        self.alphas = build_scheduler(config).alphas_cumprod.to(team.device)

    def loss_of(self, step: int) -> Tensor:
        """Loss of this process's batch."""
        team, size, device = self.team, self.task.batch, self.team.device
        drawn = self.before + step * size * team.size
        rng = np.random.default_rng((self.task.seed, 2, drawn, team.rank))
        samples = self.shards.batch(drawn, size, rng)
        clean = samples.pictures.astype(np.float32) * np.float32(self.config.scaling_factor)
        latent = torch.from_numpy(clean).to(device)
        generator = torch.Generator(device).manual_seed(int(rng.integers(2**62)))
        noise = torch.randn(latent.shape, generator=generator, device=device)
        part = (np.arange(size) * team.size + team.rank + rng.random(size)) / (size * team.size)
        timestep = torch.from_numpy((part**NOISY * len(self.alphas)).astype(np.int64)).to(device)
        alpha_bar = self.alphas[timestep][:, None, None, None]
        noisy = alpha_bar.sqrt() * latent + (1 - alpha_bar).sqrt() * noise
        whole = torch.from_numpy(samples.rows).long()
        words = drop_words(whole, len(self.ids), rng)
        spoken = torch.from_numpy(samples.spoken) * (words == whole).all(1, keepdim=True)
        self.maps.clear()
        with torch.autocast(device, torch.bfloat16, enabled=team.bfloat16):
            context = self.text(input_ids=words.to(device))[0]
            x = noisy.contiguous(memory_format=torch.channels_last)
            predicted = self.unet(x, timestep, context).sample.float()
        places = torch.from_numpy(samples.masks).to(device).float() / 255
        # where almost all is noise nobody can know where the objects are
        grounded = grounding.grounding_loss(
            self.maps, places, spoken.to(device), alpha_bar.sqrt().flatten()
        )
        return velocity_loss(predicted, latent, noise, alpha_bar) + grounding.WEIGHT * grounded

    def save(self, _: nn.ModuleDict, figures: dict[str, Any]) -> None:
        """Write the checkpoint of the networks as they are."""
        batch = self.task.batch * self.team.size
        training = {
            "samples": figures["steps"] * batch + self.before,
            "minutes": round(figures["minutes"] + self.earlier.get("minutes", 0), 1),
            "batch": batch,
            "learning_rate": self.task.learning_rate,
            "dataset": self.shards.window(self.before + figures["steps"] * batch).stop * SHARD,
            "autoencoder_minutes": round(self.saved["figures"]["minutes"], 1),
            "autoencoder_psnr": self.saved["figures"]["psnr"],
            "losses": figures["losses"][:: max(1, len(figures["losses"]) // 60)],
        }
        file = pack(self.unet, self.text, self.vae, self.config, self.ids, UNKNOWN_ROWS, training)
        write_checkpoint(file, self.task.workdir / "tinyworld.safetensors")
        log.info("saved at minute %.1f, %d samples", figures["minutes"], training["samples"])


def train_diffusion(team: Team, config: ModelConfig, task: DiffusionTask) -> None:
    """Train or go on training; the result lies in `workdir`/tinyworld.safetensors."""
    trainer = Trainer(team, config, task)
    modules = nn.ModuleDict({"unet": trainer.unet, "text": trainer.text})
    state = task.workdir / "diffusion_state.pt"
    train(modules, trainer.loss_of, task.budget, team, state, trainer.save, EMA_DECAY)
