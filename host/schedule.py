"""Noise levels of a base model."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

PURE_NOISE = 1e-8  # alpha_bar below this is no picture any more
ZERO_SNR = 1e-6  # a last alpha_bar below this was meant to be 0; Stable Diffusion's is 0.0047


@dataclass(frozen=True, slots=True)
class Schedule:
    """Noise levels of the base model: the only conversions between t, sigma and alpha-bar.

    x_t = sqrt(alpha_bar) x_0 + sqrt(1 - alpha_bar) noise        (variance-preserving, the papers)
    x_sigma = x_0 + sigma noise = x_t / sqrt(alpha_bar)          (ComfyUI, k-diffusion)
    """

    alpha_bar: Tensor  # [T] float64 on CPU, descending
    predicts_velocity: bool = False  # the model's own output is v and not noise
    trailing: bool = False  # steps are counted from the noisy end, as the model's scheduler asks

    @property
    def starts_at_the_end(self) -> bool:
        """Whether a sampler's first step has to be the noisiest level there is.

        A model that learned on pure noise has to be given pure noise as such (Lin et al. 2024,
        arXiv 2305.08891, Sec. 3.3): "leading" steps would call it something cleaner.
        """
        return self.trailing or float(self.alpha_bar[-1]) < ZERO_SNR

    def __len__(self) -> int:
        return self.alpha_bar.shape[0]

    def at(self, timesteps: Tensor) -> Tensor:
        """alpha_bar [B] at integer timesteps [B], float32 on their device."""
        # float32 before it moves: some devices have no float64.
        return self.alpha_bar.float().to(timesteps.device)[timesteps.long()]

    def sigma(self, timesteps: Tensor) -> Tensor:
        """k-diffusion noise level [B]."""
        alpha_bar = self.at(timesteps)
        return ((1 - alpha_bar) / alpha_bar).sqrt()

    def add_noise(self, latent: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """x_t [B, C, h, w] of clean latents; timesteps is [B]."""
        alpha_bar = self.at(timesteps)[:, None, None, None]
        return alpha_bar.sqrt() * latent + (1 - alpha_bar).sqrt() * noise

    def noise_from_velocity(self, noisy: Tensor, velocity: Tensor, timesteps: Tensor) -> Tensor:
        """Noise in a v-prediction: eps = sqrt(alpha_bar) v + sqrt(1 - alpha_bar) x_t."""
        alpha_bar = self.at(timesteps)[:, None, None, None]
        return alpha_bar.sqrt() * velocity + (1 - alpha_bar).sqrt() * noisy

    def native_weight(self, timesteps: Tensor) -> Tensor:
        """Factor [B] that turns a squared noise error into one of the model's own target.

        For v-prediction v_hat - v = (eps_hat - eps) / sqrt(alpha_bar), so it is 1 / alpha_bar.
        Where a schedule ends in pure noise (alpha_bar = 0) the noise error is 0 whatever the model
        says; the factor stays finite there, so that the loss is 0 and not NaN.
        """
        if self.predicts_velocity:
            return 1 / self.at(timesteps).clamp_min(PURE_NOISE)
        return torch.ones_like(timesteps, dtype=torch.float32)
