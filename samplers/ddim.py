"""DDIM on the base model's own timesteps (Song et al. 2020, arXiv 2010.02502, Eq. 12).

alpha_bar -> alpha_t of the paper's Sec. 4      eta -> the paper's eta, 0 is deterministic

The step is x' = alpha' x_0 + sigma' noise, which on a flow is Euler's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..errors import PromptError
from ..host.ports import Host, NoisePath, Progress, Prompt, UNetEdit, latent_size, no_progress


def ddim_step(
    path: NoisePath, noisy: Tensor, output: Tensor, timestep: float, following: float
) -> Tensor:
    """x at the following timestep, eta = 0; a negative one is the cleanest known.

    Args:
        output: prediction of the network at x_t.
    """
    denoised, noise = path.denoised(noisy, output, timestep), path.noise(noisy, output, timestep)
    # Past the last step Stable Diffusion goes to alpha_bar[0], not to 1 (set_alpha_to_one=False).
    alpha, sigma = path.coefficients(max(following, 0))
    return alpha * denoised + sigma * noise


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
        negative: negative prompt, usually empty.
        noise: [B, C, h, w] of unit variance; the only randomness.
        cfg: guidance scale; 1 skips the negative prompt.
    """
    rows = noise.shape[0]
    if len(prompts) not in (1, rows):
        raise PromptError(f"{len(prompts)} prompts came for {rows} latents; pass one, or {rows}.")
    every = list(prompts) if len(prompts) == rows else [prompts[0]] * rows
    latent = noise.to(host.device, torch.float32)
    timesteps = host.noise_path.timesteps(steps)
    for i, timestep in enumerate(timesteps):
        output = guided_output(host, latent, timestep, every, negative, cfg, edits)
        following = timesteps[i + 1] if i + 1 < steps else -1
        latent = ddim_step(host.noise_path, latent, output, timestep, following)
        progress(i + 1, steps)
    return latent


def guided_output(
    host: Host,
    latent: Tensor,
    timestep: float,
    prompts: Sequence[Prompt],
    negative: Prompt,
    cfg: float,
    edits: Sequence[UNetEdit] = (),
) -> Tensor:
    """The network's prediction [B, C, h, w] with classifier-free guidance.

    Args:
        prompts: one per row of `latent`.
    """

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
        predict: rows, their prompts, which are conditional -> output of the network.
            Noise, v and a flow's direction are affine in each other at a given x_t: mixing
            works on any of them.
        prompts: one per row of `latent`.
        cfg: guidance scale; 1 skips the negative prompt.
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
