"""DDIM on the base model's own timesteps (Song et al. 2020, arXiv 2010.02502, Eq. 12).

alpha_bar -> alpha_t of the paper's Sec. 4      eta -> the paper's eta, 0 is deterministic
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..errors import ConfigError, PromptError
from ..host.ports import Host, Progress, Prompt, Schedule, UNetEdit, latent_size, no_progress


def ddim_timesteps(schedule: Schedule, steps: int) -> list[int]:
    """Timesteps from noisy to clean, evenly spaced.

    As in Stable Diffusion ("leading", offset 1), or from the last one ("trailing") where the
    scheduler says so or the schedule ends in pure noise.
    """
    if not 1 <= steps <= len(schedule):
        raise ConfigError("steps", steps, f"between 1 and {len(schedule)}")
    if schedule.starts_at_the_end:
        apart = len(schedule) / steps
        return [round(len(schedule) - i * apart) - 1 for i in range(steps)]
    stride = len(schedule) // steps
    offset = min(1, len(schedule) - 1 - stride * (steps - 1))  # none where every level is a step
    return [stride * i + offset for i in reversed(range(steps))]


def ddim_step(
    schedule: Schedule, noisy: Tensor, predicted: Tensor, timestep: int, following: int
) -> Tensor:
    """x at the following timestep, eta = 0; a negative one means the cleanest that is known."""
    # Past the last step Stable Diffusion goes to alpha_bar[0], not to 1 (set_alpha_to_one=False).
    now, then = (float(schedule.alpha_bar[max(t, 0)]) for t in (timestep, following))
    denoised = (noisy - (1 - now) ** 0.5 * predicted) / now**0.5
    return then**0.5 * denoised + (1 - then) ** 0.5 * predicted


@torch.no_grad()
def sample_ddim(
    host: Host,
    prompts: Sequence[Prompt],
    negative: Prompt,
    noise: Tensor,
    *,
    steps: int = 50,
    cfg: float = 7.5,
    edits: Sequence[UNetEdit] = (),
    progress: Progress = no_progress,
) -> Tensor:
    """Latents [B, C, h, w] drawn from noise with classifier-free guidance.

    Args:
        prompts: one per row of `noise`, or one for all.
        negative: what to move away from; the empty prompt as a rule.
        noise: [B, C, h, w] of unit variance; it alone decides the random part.
        cfg: guidance scale; 1 skips the negative prompt.
    """
    rows = noise.shape[0]
    if len(prompts) not in (1, rows):
        raise PromptError(f"{len(prompts)} prompts came for {rows} latents; give one, or {rows}.")
    every = list(prompts) if len(prompts) == rows else [prompts[0]] * rows
    latent = noise.to(host.device, torch.float32)
    timesteps = ddim_timesteps(host.schedule, steps)
    for i, timestep in enumerate(timesteps):
        predicted = guided_noise(host, latent, timestep, every, negative, cfg, edits)
        following = timesteps[i + 1] if i + 1 < steps else -1
        latent = ddim_step(host.schedule, latent, predicted, timestep, following)
        progress(i + 1, steps)
    return latent


def guided_noise(
    host: Host,
    latent: Tensor,
    timestep: int,
    prompts: Sequence[Prompt],
    negative: Prompt,
    cfg: float,
    edits: Sequence[UNetEdit] = (),
) -> Tensor:
    """Noise prediction [B, C, h, w] with classifier-free guidance; a prompt for every row."""

    def predict(rows: Tensor, prompts: Sequence[Prompt], conditional: Sequence[bool]) -> Tensor:
        at = torch.full((len(rows),), timestep, device=rows.device)
        return host.predict(rows, at, prompts, edits, conditional)

    return guided(predict, latent, prompts, negative, cfg)


def guided(
    predict: Callable[[Tensor, Sequence[Prompt], Sequence[bool]], Tensor],
    latent: Tensor,
    prompts: Sequence[Prompt],
    negative: Prompt,
    cfg: float,
) -> Tensor:
    """Classifier-free guidance (Ho & Salimans 2022, Eq. 6), both predictions in one pass.

    Args:
        predict: rows, a prompt for each, which of them are conditional -> predicted noise.
        prompts: one per row of `latent`.
        cfg: guidance scale; 1 does without the negative prompt.
    """
    rows = latent.shape[0]
    if cfg == 1:
        return predict(latent, prompts, [True] * rows)
    both = predict(
        torch.cat([latent, latent]),
        [*[negative] * rows, *prompts],
        [False] * rows + [True] * rows,
    )
    unconditional, conditional = both.chunk(2)
    return unconditional + cfg * (conditional - unconditional)


def seeded_noise(host: Host, seed: int, rows: int, size_px: tuple[int, int]) -> Tensor:
    """Unit noise [B, C, h, w] for pictures of `size_px` (H, W); row i does not depend on B."""
    generator = torch.Generator().manual_seed(seed)
    shape = (host.latent_channels, *latent_size(host, size_px))
    return torch.stack([torch.randn(shape, generator=generator) for _ in range(rows)])
