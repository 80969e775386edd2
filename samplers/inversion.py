"""DDIM inversion: computes the noise from which a sampler redraws a picture.

Song et al. 2020 (arXiv 2010.02502, Sec. 4.3); the loop of Plug-and-Play (Tumanyan et al. 2023,
arXiv 2211.12572, official preprocess.py:98-123, commit e9207c0), which Concept Weaver uses.

    sigmas      noise levels of the sampler that is inverted, from noisy to 0
    trajectory  z_T .. z_0, x_sigma at each of them

A step of the sampler is x_{k+1} = x_k + (sigma_{k+1} - sigma_k) slope(x_k, sigma_k); the slope is
the predicted noise. Its inverse needs the slope at an unknown point. Plug-and-Play uses the
previous point instead and makes 999 small steps. Here a fixed-point iteration solves the equation
for x_k (`refinements`), so that the sampler's own few steps are sufficient.
"""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor

from ..errors import ImageError
from ..host.ports import Host, Progress, Prompt, no_progress
from .sigmas import checked_sigmas, euler_step, output_at

REFINEMENTS = 2  # ours; 0 is the single evaluation of Plug-and-Play


@torch.no_grad()
def invert(
    host: Host,
    latent: Tensor,
    prompt: Prompt,
    sigmas: Tensor,
    *,
    refinements: int = REFINEMENTS,
    progress: Progress = no_progress,
) -> Tensor:
    """The trajectory [S + 1, C, h, w] of a picture, without guidance; its last entry is clean.

    Differs from Plug-and-Play: steps are refined, see the top of this module. With refinements 0
    the steps are theirs (but at the sampler's S levels instead of 999).

    Args:
        latent: [1, C, h, w] clean latents of the picture.
        prompt: p_src, a description of the picture; "" in Plug-and-Play.
        sigmas: [S + 1] of the sampler, falling, ending in 0.
        refinements: further evaluations of the UNet for every step.
    """
    if latent.shape[0] != 1:
        raise ImageError(f"{latent.shape[0]} pictures came; a template is one. Pass one at a time.")
    levels = checked_sigmas(sigmas).tolist()
    point, path = latent.to(host.device, torch.float32), host.noise_path
    trajectory = [point]
    for k in reversed(range(len(levels) - 1)):
        sigma, cleaner = levels[k], levels[k + 1]
        # Plug-and-Play shows the UNet the cleaner latents, of unit variance at their own level.
        guess = point * (path.input_scale(cleaner) / path.input_scale(sigma))
        for trial in range(1 + refinements):
            if trial:  # a step lasts several passes; every one may be the last
                progress(len(trajectory) - 1, len(levels) - 1, "inverting")
            slope = path.slope(guess, output_at(host, guess, sigma, [prompt]), sigma)
            guess = euler_step(point, slope, cleaner, sigma)
        point = guess
        trajectory.append(point)
        progress(len(trajectory) - 1, len(levels) - 1, "inverting")
    return torch.cat(trajectory[::-1])


@torch.no_grad()
def reconstruct(
    host: Host,
    start: Tensor,
    prompt: Prompt,
    sigmas: Tensor,
    *,
    progress: Progress = no_progress,
) -> Tensor:
    """Clean latents [1, C, h, w] that the sampler draws from z_T without guidance."""
    levels = checked_sigmas(sigmas).tolist()
    point = start.to(host.device, torch.float32)
    for k, (sigma, following) in enumerate(itertools.pairwise(levels)):
        output = output_at(host, point, sigma, [prompt])
        point = euler_step(point, host.noise_path.slope(point, output, sigma), sigma, following)
        progress(k + 1, len(levels) - 1, "reconstructing")
    return point


def psnr(first: Tensor, second: Tensor) -> float:
    """Peak signal-to-noise ratio of two pictures 0..1, in decibels; infinite if they are equal."""
    error = float((first.float().cpu() - second.float().cpu()).square().mean())
    return math.inf if error == 0 else -10 * math.log10(error)
