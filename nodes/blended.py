"""Masked Blended Sampler: a SAMPLER that draws under a mask and keeps the rest of the picture."""

from __future__ import annotations

from typing import Any

import torch
from comfy_api.latest import io
from torch import Tensor

from ..errors import ImageError, MaskError
from ..host.comfyui.sampling import SamplerCall, sampler_of
from ..samplers.blended import BlendConfig, sample_blended
from ..samplers.masks import latent_masks, picture_masks
from ..training.setting import changed, settings_in
from .shared import CATEGORY
from .widgets import widgets_of

SAMPLING = f"{CATEGORY}/Sampling"
NOMINAL_PX = 8  # a latent cell's side where nobody knows the VAE; only the aspect counts then


class MaskedBlendedSampler(io.ComfyNode):
    """A SAMPLER that draws under a mask."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ConceptLoomMaskedBlendedSampler",
            display_name="Masked Blended Sampler",
            category=SAMPLING,
            description="A SAMPLER for SamplerCustomAdvanced that redraws the area under a "
            "mask and keeps the rest of the picture (Blended Latent Diffusion, as in CLiC). "
            "Connect the source picture as the latent image; any scheduler supplies the noise "
            "levels.",
            search_aliases=["inpaint", "blended latent diffusion", "clic transfer", "ddim eta"],
            inputs=[
                *widgets_of(BlendConfig()),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="White is redrawn, grey is mixed; several masks are combined. "
                    "Without it, the latent's own noise mask applies.",
                ),
            ],
            outputs=[
                io.Sampler.Output(
                    "sampler",
                    tooltip="For SamplerCustomAdvanced, with the source picture as latent image.",
                )
            ],
        )

    @classmethod
    def execute(cls, mask: Tensor | None = None, **settings: Any) -> io.NodeOutput:
        return io.NodeOutput(blended_sampler(blend_config(settings), mask))


def blend_config(settings: dict[str, Any]) -> BlendConfig:
    """The `BlendConfig` of its widgets; removes them from the settings."""
    names = [one.name for one in settings_in(BlendConfig())]
    return changed(BlendConfig(), {name: settings.pop(name, None) for name in names})


def blended_sampler(config: BlendConfig, masks: Tensor | None, *, ends_held: bool = True) -> Any:
    """A SAMPLER.

    Args:
        masks: [H, W] or [n, H, W] in pixels; None uses the noise mask of the latents.
        ends_held: see `sample_blended`.
    """
    if masks is not None:  # an empty one is told before sampling
        picture_masks(masks, (masks.shape[-2], masks.shape[-1]))

    def sample(call: SamplerCall) -> Tensor:
        if not call.source.any():
            raise ImageError(
                "The latent image is empty; connect VAE Encode of the picture to edit."
            )
        generator = torch.Generator().manual_seed(call.seed)
        # The first draw of this seed made the NOISE that came in.
        torch.randn(call.noise.shape, generator=generator)

        def denoise(latent: Tensor, sigma: float, step: int) -> Tensor:
            denoised = call.denoise(latent, sigma)
            call.report(step, denoised, latent)
            return denoised

        def draw() -> Tensor:
            return torch.randn(call.noise.shape, generator=generator).to(call.noise)

        mask = _cells(call, masks)
        return sample_blended(
            denoise, call.source, mask, call.sigmas, draw, config,
            frame=call, first_noise=call.noise, ends_held=ends_held,
        )  # fmt: skip

    return sampler_of(sample)


def _cells(call: SamplerCall, masks: Tensor | None) -> Tensor:
    """[1 or B, 1, h, w], 1 = redrawn; with an axis for time where latents have one."""
    if masks is None:
        if call.mask is None:
            raise MaskError(
                "No mask is connected: connect one to Masked Blended Sampler, or put Set Latent "
                "Noise Mask before the sampler."
            )
        return call.mask[:, :1].to(call.source)
    height, width = call.source.shape[-2:]
    planes = picture_masks(masks, (height * NOMINAL_PX, width * NOMINAL_PX))
    mask = latent_masks(planes, (height, width)).amax(dim=0, keepdim=True).to(call.source)
    return mask.unsqueeze(2) if call.source.ndim == 5 else mask
