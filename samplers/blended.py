"""Blended sampling: redraws a masked part of a picture and keeps the rest.

Blended Latent Diffusion (Avrahami et al. 2023, arXiv 2206.02779, Alg. 1; official code
omriav/blended-latent-diffusion) in the form in which CLiC transfers a concept (Safaee et al.,
CVPR 2024, arXiv 2311.17083; official transfer.py). All in k-diffusion's frame, so that one loop
serves DDIM steps and every scheduler of ComfyUI.

    sigmas        noise levels of a sampler, from noisy to 0        T .. 0
    source        z_init, clean latents of the picture
    start         t_start, skipped steps: more keep more of the content under the mask
    eta           DDIM's eta; at 1 every step draws fresh noise (CLiC), at 0 none does
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

import torch
from torch import Tensor

from ..errors import ConfigError, ImageError
from ..host.ports import Progress, no_progress
from ..training.setting import check_settings, setting

Denoise = Callable[[Tensor, float, int], Tensor]  # x_sigma, sigma, number of the step -> x_0
DrawNoise = Callable[[], Tensor]  # unit noise like the latents
MOST_STEPS = 10_000  # of the hosts' samplers


class Frame(Protocol):
    """In which x_sigma = picture_scale(sigma) x_0 + sigma noise, see `host.noise`."""

    def input_scale(self, level: float) -> float:
        """x_t / x_sigma at a noise level."""
        ...

    def picture_scale(self, level: float) -> float:
        """Share of the picture in x_sigma."""
        ...


class SourceLevel(str, Enum):
    """Noise level of the source around the mask, before a step."""

    SAME = "same as the step"  # both papers, and CLiC's official code
    ONE_BEFORE = "one step noisier"  # official code of Blended Latent Diffusion


class Inside(str, Enum):
    """Initial content under the mask."""

    SOURCE = "noised source"  # CLiC
    # Official code of Blended Latent Diffusion for SD2, in spite of its start. There the first pass
    # sees noise around the mask, too; the source is put there from the second one on.
    NOISE = "pure noise"


@dataclass(frozen=True, kw_only=True, slots=True)
class BlendConfig:
    """Settings of an edit under a mask."""

    # Steps skipped at the noisy end. CLiC's paper: 5 to 15 of 50; its code's 15 and 20 skip 14, 19.
    start: int = setting(
        15,
        help="Steps skipped at the noisy end (t_start). 0 ignores the old content, 5 to 20 of 50 "
        "are usual, more keep more of it. Must be below the number of steps.",
        minimum=0,
        maximum=MOST_STEPS,
    )
    eta: float = setting(  # transfer.py; 0 in Blended Latent Diffusion
        1.0,
        option="ddim_eta",
        help="Fresh noise in every step. 0 is plain DDIM, 1 (CLiC) blends seams best.",
        minimum=0.0,
        maximum=1.0,
        step=0.05,
    )
    free_steps: int = setting(
        0,
        help="Last steps without blending the source picture in. 0 blends in every step, so "
        "latents outside the mask stay exact; CLiC's code frees 4 of 50.",
        minimum=0,
        maximum=MOST_STEPS,
        is_advanced=True,
    )
    source_level: SourceLevel = setting(
        SourceLevel.SAME,
        help="Noise level of the source picture when it is blended in: the level of the step (both "
        "papers), or one step noisier (code of Blended Latent Diffusion).",
        is_advanced=True,
    )
    inside: Inside = setting(
        Inside.SOURCE,
        help="Initial content under the mask: the noised picture keeps its layout, pure noise "
        "discards it.",
        is_advanced=True,
    )
    fresh_noise: bool = setting(
        True,
        help="On: draws new noise for the source picture before every step, as both papers' code "
        "does. Off: uses the same noise in every step, which suits eta 0.",
        is_advanced=True,
    )

    def __post_init__(self) -> None:
        check_settings(self)

    def check(self, steps: int) -> None:
        """ConfigError if `start` skips all of the steps."""
        if self.start >= steps:
            raise ConfigError(
                "start",
                self.start,
                f"below the {steps} steps of the sampler, {steps - 1} at most",
            )


def noised_source(
    source: Tensor, noise: Tensor, sigma: float, level: float, frame: Frame
) -> Tensor:
    """x_sigma [B, C, h, w] of the source, carrying the noise of `level`.

    If the two differ, the scale is that of x_t, the network's input.
    """
    noisy = frame.picture_scale(level) * source + level * noise
    if level == sigma:
        return noisy
    return noisy * (frame.input_scale(level) / frame.input_scale(sigma))


def blended(latent: Tensor, outside: Tensor, mask: Tensor) -> Tensor:
    """latent * m + outside * (1 - m); exactly `outside` where the mask is 0."""
    return torch.where(mask > 0, latent * mask + outside * (1 - mask), outside)


def _spread(sigma: float, frame: Frame) -> float:
    """Standard deviation of x_sigma where picture and noise have variance 1."""
    return (frame.picture_scale(sigma) ** 2 + sigma**2) ** 0.5


def stochastic_step(
    noisy: Tensor, denoised: Tensor, sigma: float, following: float, eta: float, draw: DrawNoise,
    frame: Frame,
) -> Tensor:  # fmt: skip
    """x at the following noise level, DDIM with any eta.

    Source: Song et al. 2020 (arXiv 2010.02502), Eq. 12 and 16. With r the ratio of noise to
    picture at a level, eta^2 sigma'^2 (1 - r'^2 / r^2) of the variance is fresh noise; where the
    picture's share is 1, r is sigma. A flow makes the same steps at the same r.
    """
    share, after = frame.picture_scale(sigma), frame.picture_scale(following)
    fresh = eta * following * (1 - (following * share / (after * sigma)) ** 2) ** 0.5
    deterministic = max(following**2 - fresh**2, 0.0) ** 0.5
    moved = after * denoised + deterministic / sigma * (noisy - share * denoised)
    return moved + fresh * draw() if fresh else moved


@torch.no_grad()
def sample_blended(
    denoise: Denoise,
    source: Tensor,
    mask: Tensor,
    sigmas: Sequence[float],
    draw: DrawNoise,
    config: BlendConfig,
    *,
    frame: Frame,
    first_noise: Tensor | None = None,
    ends_held: bool = True,
    before_step: Callable[[Tensor, float, int], Tensor] = lambda latent, sigma, step: latent,
    progress: Progress = no_progress,
) -> Tensor:
    """Latents [B, C, h, w] with a redrawn masked part.

    Each step blends the noised source around the mask, lets guidance change the latents
    (`before_step`), denoises, and makes a DDIM step. At the end the area around the mask is exactly
    the clean source, unless the last steps are free.

    Args:
        denoise: the model, with prompts and classifier-free guidance in it.
        source: [B, C, h, w] clean latents of the picture.
        mask: [1 or B, 1, h, w], 1 = redrawn.
        sigmas: S + 1 falling noise levels; may end above 0 if another sampler continues.
        draw: unit noise like `source`; the only randomness.
        frame: in which the noise levels count, such as the model's noise path.
        first_noise: noise to start from, as `draw` gives it.
        ends_held: blend the source around the mask after the last step, unless that step is free.
        before_step: x_sigma, sigma, number of the step -> x_sigma.

    Raises:
        ConfigError: all steps are skipped.
        ImageError: mask and latents differ in size.
    """
    if mask.shape[-2:] != source.shape[-2:]:
        raise ImageError(
            f"The mask has {mask.shape[-1]}x{mask.shape[-2]} cells and the latents "
            f"{source.shape[-1]}x{source.shape[-2]}; make the mask on the picture to edit."
        )
    steps = len(sigmas) - 1
    config.check(steps)
    noise = draw() if first_noise is None else first_noise
    sigma = sigmas[config.start]
    latent = noised_source(source, noise, sigma, sigma, frame)
    if config.inside is Inside.NOISE:  # the first pass sees nothing of the source
        latent = noise * _spread(sigma, frame)
    for step in range(config.start, steps):
        sigma, following = sigmas[step], sigmas[step + 1]
        if step < steps - config.free_steps and step > config.start:
            if config.fresh_noise:
                noise = draw()
            noisier = config.source_level is SourceLevel.ONE_BEFORE
            level = sigmas[step - 1] if noisier else sigma
            outside = noised_source(source, noise, sigma, level, frame)
            latent = blended(latent, outside, mask)
        latent = before_step(latent, sigma, step)
        denoised = denoise(latent, sigma, step)
        latent = stochastic_step(latent, denoised, sigma, following, config.eta, draw, frame)
        progress(step + 1 - config.start, steps - config.start, "drawing under the mask")
    if ends_held and not config.free_steps:
        if config.fresh_noise and sigmas[-1] > 0:  # others sample on
            noise = draw()
        outside = noised_source(source, noise, sigmas[-1], sigmas[-1], frame)
        latent = blended(latent, outside, mask)
    return latent
