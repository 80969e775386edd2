"""A plain transcription of CLiC's guided transfer, from its description, for comparison.

A guided step passes both rows of classifier-free guidance through the whole UNet with a gradient,
every attention in full; compares the word's map in the row of the prompt with ones; and takes one
step of a fresh Adam on the latents. Then both rows pass once more, without a gradient.

Left out, in its favour: gradients of the UNet's weights, and the picture that their program decodes
at every step.
"""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from official_parts import EveryProbability, mean_map
from torch import Tensor

from conceptloom.host.diffusers import DiffusersHost
from conceptloom.host.ports import Prompt
from conceptloom.samplers.blended import BlendConfig, sample_blended
from conceptloom.samplers.sigmas import output_at

RATE = 0.01  # of Adam


class OfficialTransfer:
    """Draws a picture anew under a mask, guided in every step.

    Args:
        token: place of the word in the prompt.
    """

    def __init__(
        self, host: DiffusersHost, prompt: Prompt, negative: Prompt, token: int, cfg: float
    ) -> None:
        self._host, self._prompts, self._token, self._cfg = host, [negative, prompt], token, cfg
        self._kept: list[Tensor] = []

    def run(self, source: Tensor, mask: Tensor, steps: int, seed: int = 0) -> Tensor:
        """Latents [1, C, h, w].

        Args:
            source: [1, C, h, w] clean latents of the picture.
            mask: [1, 1, h, w], 1 = drawn anew.
        """
        unet, generator = self._host.unet, torch.Generator().manual_seed(seed)
        before = unet.attn_processors
        unet.set_attn_processor(
            {
                name: EveryProbability(partial(self._keep, name.startswith("up_blocks")))
                for name in before
            }
        )
        try:
            with self._host.edited({}, trainable=True):  # no gradients of weights
                return sample_blended(
                    self._denoised,
                    source,
                    mask,
                    self._host.noise_path.levels(steps).tolist(),
                    lambda: torch.randn(source.shape, generator=generator).to(source),
                    BlendConfig(start=0),
                    input_scale=self._host.noise_path.input_scale,
                    before_step=self._guided,
                )
        finally:
            unet.set_attn_processor(before)

    def _keep(self, is_read: bool, probs: Tensor) -> None:
        if is_read and torch.is_grad_enabled():
            self._kept.append(probs[probs.shape[0] // 2 :])

    def _outputs(self, latent: Tensor, sigma: float) -> tuple[Tensor, Tensor]:
        """Without and with the prompt."""
        both = output_at(self._host, latent.repeat(2, 1, 1, 1), sigma, self._prompts)
        return both[:1], both[1:]

    def _guided(self, latent: Tensor, sigma: float, step: int) -> Tensor:
        scale = (1 + sigma**2) ** 0.5
        moving = (latent / scale).requires_grad_(True)
        optimizer = torch.optim.Adam([moving], lr=RATE)
        with torch.enable_grad():
            self._outputs(moving * scale, sigma)
            heat = mean_map(self._kept, self._token, (latent.shape[-2], latent.shape[-1]))
            F.mse_loss(heat, torch.ones_like(heat)).backward()
        optimizer.step()
        self._kept.clear()
        return moving.detach() * scale

    def _denoised(self, latent: Tensor, sigma: float, step: int) -> Tensor:
        plain, prompted = self._outputs(latent, sigma)
        output = plain + self._cfg * (prompted - plain)
        return self._host.noise_path.denoised_at(latent, output, sigma)
