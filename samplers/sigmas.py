"""Sampling in k-diffusion's frame, at whatever noise levels a sampler has.

    x_sigma = x_0 + sigma noise     sigma -> sqrt(1 - alpha_bar) / sqrt(alpha_bar)

In this frame a deterministic DDIM step (Song et al. 2020, arXiv 2010.02502, Eq. 13) is a straight
line: x' = x + (sigma' - sigma) noise, which ComfyUI calls euler. A sampler's sigmas need not lie on
whole timesteps; the UNet is then asked at the nearest one, as ComfyUI does.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..errors import ConfigError
from ..host.ports import Host, Prompt, Schedule, UNetEdit
from .ddim import ddim_timesteps, guided

SAME_SIGMA = 1e-3  # relative difference up to which two noise levels are the same one


def ddim_sigmas(schedule: Schedule, steps: int) -> Tensor:
    """Noise levels [steps + 1] of Stable Diffusion's DDIM, from noisy to 0 (float32, CPU)."""
    timesteps = torch.tensor(ddim_timesteps(schedule, steps))
    return torch.cat([schedule.sigma(timesteps), torch.zeros(1)])


def checked_sigmas(sigmas: Tensor) -> Tensor:
    """Sigmas as float32 on the CPU, from noisy to 0.

    Raises:
        ConfigError: fewer than two, not falling, or not ending in 0.
    """
    found = sigmas.detach().float().cpu().reshape(-1)
    falls = len(found) > 1 and bool((found[1:] < found[:-1]).all())
    if not falls or not found.isfinite().all() or float(found[-1]) != 0:
        told = ", ".join(f"{float(s):.3g}" for s in found[:4])
        raise ConfigError("sigmas", f"[{told}, ...]", "falling noise levels that end in 0")
    return found


def timestep_at(schedule: Schedule, sigma: float) -> int:
    """The whole timestep whose noise level is nearest to sigma, by their ratio."""
    known = ((1 - schedule.alpha_bar) / schedule.alpha_bar).log() / 2
    target = torch.tensor(max(sigma, 1e-10), dtype=torch.float64).log()
    return int((known - target).abs().argmin())


def noise_at(
    host: Host,
    noisy: Tensor,
    sigma: float,
    prompts: Sequence[Prompt],
    edits: Sequence[UNetEdit] = (),
    conditional: Sequence[bool] | None = None,
) -> Tensor:
    """Predicted noise [B, C, h, w] of x_sigma; for any sigma, of noise and of v models.

    Args:
        noisy: [B, C, h, w] x_sigma = x_0 + sigma noise.
    """
    alpha_bar = 1 / (1 + sigma**2)
    scaled = noisy * alpha_bar**0.5
    timestep = timestep_at(host.schedule, sigma)
    at = torch.full((noisy.shape[0],), timestep, device=noisy.device)
    predicted = host.predict(scaled, at, prompts, edits, conditional)
    trained = float(host.schedule.alpha_bar[timestep])
    if host.schedule.predicts_velocity and abs(alpha_bar - trained) > 1e-6 and trained > 1e-6:
        # The port turned v into noise at the timestep's own level; here it is the sampler's.
        velocity = (predicted - (1 - trained) ** 0.5 * scaled) / trained**0.5
        return alpha_bar**0.5 * velocity + (1 - alpha_bar) ** 0.5 * scaled
    return predicted


def guided_noise_at(
    host: Host,
    noisy: Tensor,
    sigma: float,
    prompt: Prompt,
    negative: Prompt,
    cfg: float,
    edits: Sequence[UNetEdit] = (),
) -> Tensor:
    """`noise_at` with classifier-free guidance; cfg 1 does without."""

    def predict(rows: Tensor, prompts: Sequence[Prompt], conditional: Sequence[bool]) -> Tensor:
        return noise_at(host, rows, sigma, prompts, edits, conditional)

    return guided(predict, noisy, [prompt] * noisy.shape[0], negative, cfg)


def euler_step(noisy: Tensor, predicted: Tensor, sigma: float, following: float) -> Tensor:
    """x at the following noise level, along the predicted noise (DDIM with eta = 0)."""
    return noisy + (following - sigma) * predicted
