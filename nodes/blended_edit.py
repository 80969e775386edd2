"""Masked Blended Edit and Composite Seam: pictures in and out, exact outside of the masks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from comfy_api.latest import io
from torch import Tensor

from ..errors import ConfigError, ImageError, PromptError
from ..host.comfyui.sampling import (
    conditioning_of,
    ddim_sampler,
    masked_conditioning,
    run_sampler,
    scheduler_names,
    sigmas_of,
)
from ..samplers.masks import composited, picture_masks, region_weights, seam
from .blended import SAMPLING, blend_config, blended_sampler
from .blended_inputs import composite_inputs, edit_inputs
from .shared import lines_of


class MaskedBlendedEdit(io.ComfyNode):
    """Picture, masks and prompts -> edited picture."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ConceptLoomMaskedBlendedEdit",
            display_name="Masked Blended Edit",
            category=SAMPLING,
            description="Draws prompts under the masks of a picture, in a single node. Outside "
            "the masks, the result equals the picture exactly, pixel by pixel.",
            search_aliases=["inpaint", "blended latent diffusion", "clic transfer", "local edit"],
            inputs=edit_inputs(scheduler_names()),
            outputs=[
                io.Image.Output("image", tooltip="The edited picture."),
                io.Latent.Output("latent", tooltip="The latents of the edit, before compositing."),
                io.Mask.Output("seam", tooltip="Share of the edit in each pixel, 0 to 1."),
            ],
        )

    @classmethod
    def execute(
        cls, vae: Any, image: Tensor, mask: Tensor, composite: bool, feather_px: int,
        **settings: Any,
    ) -> io.NodeOutput:  # fmt: skip
        source, masks = source_of(vae, image), picture_masks(mask, size_of(image))
        latent = edited(source, masks, **settings)
        drawn, union = vae.decode(latent["samples"]), masks.amax(dim=0)
        if composite:
            drawn = composited(drawn, image[..., :3], union, feather_px)
        return io.NodeOutput(drawn, latent, seam(union, feather_px)[None])


class CompositeSeam(io.ComfyNode):
    """Drawn picture over source picture, exact outside of the mask."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ConceptLoomCompositeSeam",
            display_name="Composite Seam",
            category=SAMPLING,
            description="Pastes an edit back into its picture. Pixels stay exact where the "
            "mask is black; the seam lies inside the mask.",
            search_aliases=["composite masked", "paste back", "feather", "inpaint stitch"],
            inputs=[
                io.Image.Input("drawn", tooltip="The decoded edit, from a sampler."),
                io.Image.Input("source", tooltip="The picture before the edit, at the same size."),
                io.Mask.Input("mask", tooltip="White shows the edit; several masks are combined."),
                *composite_inputs()[1:],
            ],
            outputs=[io.Image.Output("image", tooltip="The picture with the edit.")],
        )

    @classmethod
    def execute(cls, drawn: Tensor, source: Tensor, mask: Tensor, feather_px: int) -> io.NodeOutput:
        union = picture_masks(mask, size_of(source)).amax(dim=0)
        return io.NodeOutput(composited(drawn[..., :3], source[..., :3], union, feather_px))


def size_of(image: Tensor) -> tuple[int, int]:
    """(H, W) of an IMAGE."""
    return image.shape[1], image.shape[2]


def source_of(vae: Any, image: Tensor) -> Tensor:
    """Latents of the picture, in the VAE's scale.

    Raises:
        ImageError: it is not a picture, or its sides are not multiples of the VAE's factor.
    """
    if image.ndim != 4 or image.shape[-1] not in (3, 4):
        raise ImageError(f"The image has the shape {list(image.shape)}; connect an RGB picture.")
    side = vae.spacial_compression_encode()
    if any(n % side for n in image.shape[1:3]):
        raise ImageError(
            f"The picture is {image.shape[2]}x{image.shape[1]} px; its sides must be multiples of "
            f"{side}. Resize or crop it first."
        )
    return vae.encode(image[..., :3])


def prompt_lines(prompts: str, count: int) -> list[str]:
    """One prompt for every mask; a single line serves all.

    Raises:
        PromptError: there is neither one line nor one per mask.
    """
    lines = list(lines_of(prompts))
    if len(lines) not in (1, count):
        raise PromptError(
            f"{len(lines)} prompts came for {count} masks; write one line for each mask in their "
            "order, or a single line for all."
        )
    return lines * count if len(lines) == 1 else lines


def edited(
    source: Tensor, masks: Tensor, *, model: Any, clip: Any, prompts: str, negative: str, seed: int,
    steps: int, cfg: float, scheduler: str, harmonise_steps: int, harmonise_prompt: str,
    base_model: Any = None, **settings: Any,
) -> dict[str, Any]:  # fmt: skip
    """LATENT of a picture, redrawn under its masks.

    The latents are blended a last time before the first harmonising step, as in CLiC's official
    code.

    Args:
        source: [B, C, h, w] latents in the VAE's scale.
        masks: [n, H, W], a region each.
    """
    config, last = blend_config(settings), harmonise_steps
    texts, sigmas = prompt_lines(prompts, len(masks)), sigmas_of(model, scheduler, steps)
    steps = len(sigmas) - 1  # ddim_uniform makes more than it is asked for, beta fewer
    config.check(steps)
    if not 0 <= last < steps - config.start:
        raise ConfigError("harmonise_steps", last, f"below {steps - config.start} (steps - start)")
    held = replace(config, free_steps=max(config.free_steps - last, 0))
    sampler = blended_sampler(held, masks, ends_held=not last or config.free_steps < last)
    unwanted = conditioning_of(clip, negative)
    drawn = run_sampler(
        model, _regions(clip, texts, masks), unwanted, cfg, sampler, sigmas[: steps + 1 - last],
        {"samples": source}, seed, progress_of=(0, steps),
    )  # fmt: skip
    if not last:
        return drawn
    plain = [harmonise_prompt] * len(texts) if harmonise_prompt.strip() else texts
    return run_sampler(
        base_model or model, _regions(clip, plain, masks), unwanted, cfg,
        ddim_sampler(config.eta), sigmas[steps - last :], drawn, seed,
        adds_noise=False, progress_of=(steps - last, steps),
    )  # fmt: skip


def _regions(clip: Any, texts: Sequence[str], masks: Tensor) -> Any:
    """One conditioning for every region, or a plain one if all prompts are equal."""
    if len(set(texts)) == 1:
        return conditioning_of(clip, texts[0])
    shares = region_weights(masks[:, None])[:, 0]
    return masked_conditioning(
        [(conditioning_of(clip, text), share) for text, share in zip(texts, shares, strict=True)]
    )
