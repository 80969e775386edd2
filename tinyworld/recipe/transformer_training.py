"""The transformers' training: flow matching in latents, grounded in the renderer's masks."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..autoencoder import read_autoencoder
from ..dit.checkpoint import DitFile, pack, write_dit
from ..dit.networks import build_adapter, build_text_encoder, build_transformer
from ..dit.sampling import PADDED
from ..dit.sizes import DitConfig
from . import grounding
from .diffusion_training import EMA_DECAY, DiffusionTask, encoder
from .loop import Team, train
from .plain_attention import plain_adapter, record_words
from .retold import Told, captions, qwen_reader, t5_reader
from .shards import SHARD, Shards

log = logging.getLogger("conceptloom")

TRAINING_SHIFT = 2.0  # of the noise levels that training draws


def noise_levels(part: Tensor, shift: float = TRAINING_SHIFT) -> Tensor:
    """Noise levels whose logits are normal, shifted towards noise.

    Source: Esser et al., arXiv 2403.03206, equations 19 (logit-normal, location 0, scale 1) and 23.

    Args:
        part: [B] which share of all levels lies below, 0..1 (exclusive).

    Returns:
        [B] sigma, 0..1; x_t = (1 - sigma) x_0 + sigma noise.
    """
    sigma = torch.sigmoid(torch.special.ndtri(part))
    return shift * sigma / (1 + (shift - 1) * sigma)


class Networks(nn.Module):
    """What is trained together: transformer, text encoder, and Anima's adapter.

    Called with noisy latents [B, C, h, w], noise levels [B] and captions, gives the velocity
    noise - x_0, in float32.
    """

    def __init__(self, config: DitConfig) -> None:
        super().__init__()
        self.config = config
        self.qwen = qwen_reader(config.family)
        self.transformer = build_transformer(config)
        self.text = build_text_encoder(config, len(self.qwen.rows))
        self.t5 = t5_reader() if config.family == "anima" else None
        if self.t5 is not None:
            self.adapter = build_adapter(config, len(self.t5.rows), filled=0)
            plain_adapter(self.adapter)
        start_closed(self.transformer)
        self.maps = record_words(self.transformer, config.tokens_side**2)

    def file(self, training: dict[str, Any], autoencoder: str) -> DitFile:
        """The networks as a checkpoint."""
        return pack(
            self.config,
            self.transformer,
            self.text,
            self.adapter if self.t5 is not None else None,
            qwen=self.qwen.rows,
            t5=None if self.t5 is None else self.t5.rows,
            training=training,
            autoencoder=autoencoder,
        )

    def forward(
        self, noisy: Tensor, sigma: Tensor, said: Told, of_t5: Told | None
    ) -> tuple[Tensor, list[Tensor], Tensor]:
        """Velocity [B, C, h, w], words' maps [B, image tokens, L] per block, what they speak of.

        Args:
            noisy: [B, C, h, w]
            sigma: [B] noise levels, 0..1.
            said:  captions as Qwen reads them.
            of_t5: the same as T5 reads them, for Anima.
        """
        self.maps.clear()
        if of_t5 is None:
            return self._one_stream(noisy, sigma, said)
        device = noisy.device
        there = of_t5.present.to(device)
        states = self.text(input_ids=said.rows.to(device)).last_hidden_state
        context = self.adapter(states, of_t5.rows.to(device), there, said.present.to(device))
        latents = noisy[:, :, None]
        moved = self.transformer(
            hidden_states=latents,
            timestep=sigma,
            encoder_hidden_states=context * there[..., None],
            return_dict=False,
        )[0]
        return moved[:, :, 0].float(), self.maps, of_t5.spoken

    def _one_stream(
        self, noisy: Tensor, sigma: Tensor, said: Told
    ) -> tuple[Tensor, list[Tensor], Tensor]:
        """Z-Image, in groups of captions that are filled up to the same length."""
        rows = said.rows.to(noisy.device)
        states = self.text(input_ids=rows, output_hidden_states=True).hidden_states[-2]
        filled = (said.lengths + PADDED - 1) // PADDED
        order, moved, maps = [], [], []
        for length in filled.unique().tolist():
            group = (filled == length).nonzero().flatten().tolist()
            self.maps.clear()
            out = self.transformer(
                [noisy[i][:, None] for i in group],
                1 - sigma[group],
                [states[i, : said.lengths[i]] for i in group],
                return_dict=False,
            )[0]
            order += group
            moved += [-one[:, 0].float() for one in out]
            maps.append([_fitted(words, rows.shape[1]) for words in self.maps])
        back = torch.tensor(order).argsort()
        joined = [torch.cat(parts)[back] for parts in zip(*maps, strict=True)]
        return torch.stack(moved)[back], joined, said.spoken


def _fitted(words: Tensor, length: int) -> Tensor:
    """Maps [B, Q, L] with as many columns as the longest caption has tokens."""
    missing = max(0, length - words.shape[2])
    return nn.functional.pad(words, (0, missing))[..., :length]


def start_closed(network: nn.Module) -> None:
    """Let every block and the output begin at nothing, as diffusion transformers do.

    Source: Peebles and Xie, arXiv 2212.09748, section 3.2 (adaLN-Zero).
    """
    ends = ("linear_2", "adaLN_modulation.0", "proj_out", "final_layer.2-1.linear")
    for name, module in network.named_modules():
        if name.endswith(ends) and "t_embedder" not in name:
            for parameter in module.parameters():
                nn.init.zeros_(parameter)


class Trainer:
    """The networks, what they are fed, and the loss of a step."""

    def __init__(self, team: Team, config: DitConfig, task: DiffusionTask) -> None:
        torch.manual_seed(task.seed)
        self.team, self.task, self.config = team, task, config
        self.autoencoder = read_autoencoder()
        self.shards = Shards(
            task.workdir / "shards",
            encoder(self.autoencoder.network(), team),
            task.seed,
            config.resolution_px,
            workers=task.workers,
            mine=lambda index: index % team.size == team.rank,
        )
        self.networks = Networks(config).to(team.device)

    def loss_of(self, step: int) -> Tensor:
        """Loss of this process's batch."""
        team, size, device = self.team, self.task.batch, self.team.device
        drawn = step * size * team.size
        rng = np.random.default_rng((self.task.seed, 3, drawn, team.rank))
        samples = self.shards.batch(drawn, size, rng)
        clean = samples.pictures.astype(np.float32) * np.float32(self.config.scaling)
        latent = torch.from_numpy(clean).to(device)
        generator = torch.Generator(device).manual_seed(int(rng.integers(2**62)))
        noise = torch.randn(latent.shape, generator=generator, device=device)
        part = (np.arange(size) * team.size + team.rank + rng.random(size)) / (size * team.size)
        sigma = noise_levels(torch.from_numpy(part.clip(1e-6, 1 - 1e-6)).float()).to(device)
        at = sigma[:, None, None, None]
        words = captions(samples, rng)
        said = self.networks.qwen.tell(words, rng)
        of_t5 = None if self.networks.t5 is None else self.networks.t5.tell(words, rng)
        with torch.autocast(device, torch.bfloat16, enabled=team.bfloat16):
            noisy = (1 - at) * latent + at * noise
            velocity, maps, spoken = self.networks(noisy, sigma, said, of_t5)
        places = torch.from_numpy(samples.masks).to(device).float() / 255
        # where almost all is noise nobody can know where the objects are
        grounded = grounding.grounding_loss(maps, places, spoken.to(device), 1 - sigma)
        matched = (velocity - (noise - latent)).square().mean()
        return matched + grounding.WEIGHT * grounded

    def save(self, _: nn.ModuleDict, figures: dict[str, Any]) -> None:
        """Write the checkpoint of the networks as they are."""
        samples = figures["steps"] * self.task.batch * self.team.size
        training = {
            "samples": samples,
            "minutes": round(figures["minutes"], 1),
            "batch": self.task.batch * self.team.size,
            "learning_rate": self.task.learning_rate,
            "dataset": self.shards.window(samples).stop * SHARD,
            "losses": figures["losses"][:: max(1, len(figures["losses"]) // 60)],
        }
        file = self.networks.file(training, self.autoencoder.fingerprint)
        write_dit(file, self.task.workdir / f"{self.config.family}.safetensors")
        log.info("saved at minute %.1f, %d samples", figures["minutes"], samples)


def train_transformer(team: Team, config: DitConfig, task: DiffusionTask) -> None:
    """Train or go on training; the result lies in `workdir`/<family>.safetensors."""
    trainer = Trainer(team, config, task)
    modules = nn.ModuleDict({"networks": trainer.networks})
    state = task.workdir / "diffusion_state.pt"
    train(modules, trainer.loss_of, task.budget, team, state, trainer.save, EMA_DECAY)
