"""Two-stage generation: the base model lays an object out, then the concept is put on it.

CLiC (Safaee et al., CVPR 2024, arXiv 2311.17083, Sec. 4.1): for the first t_s steps the unmodified
model draws "a photo of an OBJECT", from then on the tuned one draws "a photo of an OBJECT, with v*
style". The paper gives t_s = 5 of 50 and there is no script for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import ConfigError
from ..host.ports import Host, Progress, Prompt, WeightEdit, no_progress
from ..training.checks import require_whole
from .ddim import ddim_step, ddim_timesteps, guided_noise


@dataclass(frozen=True, kw_only=True, slots=True)
class TwoStageConfig:
    """When the concept comes in."""

    base_steps: int = 5  # t_s, steps of the base model alone
    steps: int = 50
    cfg: float = 7.5

    def __post_init__(self) -> None:
        require_whole("base_steps", self.base_steps, least=0)
        if self.base_steps > self.steps:
            raise ConfigError("base_steps", self.base_steps, f"at most the {self.steps} steps")


@torch.no_grad()
def sample_two_stage(
    host: Host,
    base: Prompt,
    concept: Prompt,
    negative: Prompt,
    noise: Tensor,
    weights: Mapping[str, WeightEdit],
    config: TwoStageConfig,
    *,
    progress: Progress = no_progress,
) -> Tensor:
    """Latents [B, C, h, w] drawn from noise: first `base` without, then `concept` with the weights.

    Args:
        noise: [B, C, h, w] of unit variance.
        weights: what the concept changes; see `training.concept.stacked`.
    """
    latent = noise.to(host.device, torch.float32)
    timesteps = ddim_timesteps(host.schedule, config.steps)
    with ExitStack() as stack:
        for i, timestep in enumerate(timesteps):
            if i == config.base_steps:
                stack.enter_context(host.edited(weights, trainable=False))
            prompt = base if i < config.base_steps else concept
            rows = [prompt] * latent.shape[0]
            predicted = guided_noise(host, latent, timestep, rows, negative, config.cfg)
            following = timesteps[i + 1] if i + 1 < config.steps else -1
            latent = ddim_step(host.schedule, latent, predicted, timestep, following)
            progress(i + 1, config.steps)
    return latent
