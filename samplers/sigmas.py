"""Sampling in ComfyUI's frame, at any noise levels (see `host.noise`).

    x_sigma = x_0 + sigma noise     sigma -> sqrt(1 - alpha_bar) / sqrt(alpha_bar)

In this frame a deterministic DDIM step (Song et al. 2020, arXiv 2010.02502, Eq. 13) is a straight
line: x' = x + (sigma' - sigma) noise, which ComfyUI calls euler. A sampler's sigmas need not lie on
whole timesteps; the network then gets the nearest one, as in ComfyUI.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..errors import ConfigError
from ..host.ports import Host, Prompt, UNetEdit
from .ddim import guided

SAME_SIGMA = 1e-3  # relative difference up to which two noise levels are the same one


def checked_sigmas(sigmas: Tensor) -> Tensor:
    """Sigmas as float32 on the CPU, from noisy to 0.

    Raises:
        ConfigError: fewer than two, not falling, or not ending in 0.
    """
    levels = sigmas.detach().float().cpu().reshape(-1)
    falls = len(levels) > 1 and bool((levels[1:] < levels[:-1]).all())
    if not falls or not levels.isfinite().all() or float(levels[-1]) != 0:
        summary = ", ".join(f"{float(s):.3g}" for s in levels[:4])
        raise ConfigError("sigmas", f"[{summary}, ...]", "falling noise levels that end in 0")
    return levels


def output_at(
    host: Host,
    noisy: Tensor,
    sigma: float,
    prompts: Sequence[Prompt],
    edits: Sequence[UNetEdit] = (),
    conditional: Sequence[bool] | None = None,
) -> Tensor:
    """What the network predicts [B, C, h, w] at a noise level; `NoisePath.slope` and
    `denoised_at` say what it means.

    Args:
        noisy: [B, C, h, w] in the sampler's frame.
    """
    path = host.noise_path
    at = torch.full((noisy.shape[0],), path.timestep_at(sigma), device=noisy.device)
    return host.predict(noisy * path.input_scale(sigma), at, prompts, edits, conditional)


def guided_output_at(
    host: Host,
    noisy: Tensor,
    sigma: float,
    prompt: Prompt,
    negative: Prompt,
    cfg: float,
    edits: Sequence[UNetEdit] = (),
) -> Tensor:
    """`output_at` with classifier-free guidance; cfg 1 disables it."""

    def predict(rows: Tensor, prompts: Sequence[Prompt], conditional: Sequence[bool]) -> Tensor:
        return output_at(host, rows, sigma, prompts, edits, conditional)

    return guided(predict, noisy, [prompt] * noisy.shape[0], negative, cfg)


def euler_step(noisy: Tensor, slope: Tensor, sigma: float, following: float) -> Tensor:
    """x at the following noise level, along `NoisePath.slope` (DDIM with eta = 0)."""
    return noisy + (following - sigma) * slope
