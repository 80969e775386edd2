"""Editing a picture under masks on any host: blended sampling, guidance, last harmonising steps.

The order of CLiC's official transfer.py: blend, guide, denoise, and at the end the base model with
a plain prompt, which harmonises new and old content. The first of these harmonising steps is the
last one with blending.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from ..attention.capture import word_positions
from ..errors import PromptError
from ..host.ports import Host, Progress, Prompt, WeightEdit, no_progress
from ..training.setting import check_settings, setting
from .blended import MOST_STEPS, BlendConfig, sample_blended
from .guidance import AttentionTarget, GuidanceConfig, guided_sites, latent_gradient, moved
from .masks import latent_masks, picture_masks, region_weights
from .sigmas import output_at


@dataclass(frozen=True, slots=True, eq=False)
class Region:
    """A part of the picture with its prompt.

    Several regions are drawn at once, each with its own prompt and therefore its own concept; the
    weights of all concepts apply together (`concepts.concept.stacked`).
    """

    prompt: Prompt
    mask: Tensor  # [H, W], 1 = redrawn
    words: tuple[str, ...] = ()  # of the prompt: those that guidance pulls in


@dataclass(frozen=True, kw_only=True, slots=True)
class EditConfig:
    """One edit."""

    steps: int = setting(  # DDIM, transfer.py
        50,
        help="Steps of the whole schedule, including the skipped ones: 20 is fast, 50 fine.",
        minimum=1,
        maximum=MOST_STEPS,
    )
    cfg: float = setting(
        7.5,
        help="Guidance scale. 1 uses the prompt alone, 7.5 is usual; higher follows the prompt "
        "more closely and oversaturates.",
        minimum=1.0,
        maximum=100.0,
        step=0.5,
    )
    blend: BlendConfig = field(default_factory=BlendConfig)
    guidance: GuidanceConfig = field(default_factory=lambda: GuidanceConfig(eta=0.0))
    target_is_mask: bool = True  # paper: M is the region; False: ones everywhere, transfer.py
    harmonise_steps: int = setting(
        0,
        help="Last steps with the base model, the plain prompt and no blending, which harmonise "
        "old and new content: 0 is none, CLiC's code uses 5 of 50.",
        minimum=0,
        maximum=MOST_STEPS,
        is_advanced=True,
    )

    def __post_init__(self) -> None:
        check_settings(self)
        self.blend.check(self.steps)


@torch.no_grad()
def edit_latents(
    host: Host,
    source: Tensor,
    regions: Sequence[Region],
    negative: Prompt,
    config: EditConfig,
    *,
    weights: Mapping[str, WeightEdit] | None = None,
    plain: Prompt | None = None,
    seed: int = 0,
    rows: int = 1,
    progress: Progress = no_progress,
) -> Tensor:
    """Latents [rows, C, h, w] of a picture, redrawn under the masks.

    Args:
        source: [1, C, h, w] clean latents of the picture.
        regions: one or more; where masks overlap their predictions mix.
        weights: changes of the concepts, active until the harmonising steps.
        plain: prompt of the harmonising steps, "a chair" for the edit "a chair with
            <x> style"; None keeps the regions' own.
        rows: number of pictures, with different noise.

    Raises:
        MaskError, PromptError, ConfigError: see `errors`.
    """
    if not regions:
        raise PromptError("There is nothing to draw; add at least one mask with its prompt.")
    height, width = (n * host.pixels_per_latent for n in source.shape[-2:])
    planes = torch.cat([picture_masks(region.mask, (height, width)) for region in regions])
    masks = latent_masks(planes, (source.shape[-2], source.shape[-1])).to(host.device)
    start = source.to(host.device, torch.float32).expand(rows, -1, -1, -1)
    shares = region_weights(masks)
    targets = [
        _targets_of(host, r, plane, config) for r, plane in zip(regions, planes, strict=True)
    ]
    guides = config.guidance.eta != 0 and any(targets)
    sigmas = host.noise_path.levels(config.steps).tolist()
    last = config.harmonise_steps
    blend = replace(config.blend, free_steps=max(config.blend.free_steps, last - 1))
    generator = torch.Generator().manual_seed(seed)
    with ExitStack() as model:
        model.enter_context(host.edited(weights or {}, trainable=False))
        if guides:
            model.enter_context(host.edited({}, trainable=True))
            model.enter_context(torch.no_grad())

        def denoise(latent: Tensor, sigma: float, step: int) -> Tensor:
            prompts = [region.prompt for region in regions]
            if step >= config.steps - last:
                model.close()  # the base model again
                prompts = prompts if plain is None else [plain] * len(regions)
            output = _mixed_output(host, latent, sigma, prompts, shares, negative, config.cfg)
            return host.noise_path.denoised_at(latent, output, sigma)

        def guide(latent: Tensor, sigma: float, step: int) -> Tensor:
            harmonising = step >= config.steps - last
            if not guides or harmonising or not config.guidance.wants(step):
                return latent
            return _guided(host, latent, sigma, regions, targets, masks, config.guidance)

        return sample_blended(
            denoise,
            start,
            masks.amax(dim=0, keepdim=True),
            sigmas,
            lambda: torch.randn(start.shape, generator=generator).to(start),
            blend,
            frame=host.noise_path,
            ends_held=not last,
            before_step=guide,
            progress=progress,
        )


def _targets_of(
    host: Host, region: Region, mask: Tensor, config: EditConfig
) -> list[AttentionTarget]:
    target = mask if config.target_is_mask else None
    length = len(region.prompt.tokens)
    return [
        AttentionTarget(word_positions(host, region.prompt, word), length, target)
        for word in region.words
    ]


def _mixed_output(
    host: Host,
    latent: Tensor,
    sigma: float,
    prompts: Sequence[Prompt],
    shares: Tensor,
    negative: Prompt,
    cfg: float,
) -> Tensor:
    """Classifier-free guidance with the regions' predictions mixed by their shares, one pass."""
    rows, every = latent.shape[0], [negative, *prompts] if cfg != 1 else list(prompts)
    predicted = output_at(
        host,
        latent.repeat(len(every), 1, 1, 1),
        sigma,
        [prompt for prompt in every for _ in range(rows)],
        conditional=[cfg == 1 or i >= rows for i in range(len(every) * rows)],
    )
    parts = predicted.split(rows)
    own = parts[-len(prompts) :]
    conditional = sum(share * part for share, part in zip(shares, own, strict=True))
    if len(prompts) == 1:
        conditional = own[0]
    assert isinstance(conditional, Tensor)
    return conditional if cfg == 1 else parts[0] + cfg * (conditional - parts[0])


def _guided(
    host: Host,
    latent: Tensor,
    sigma: float,
    regions: Sequence[Region],
    targets: Sequence[Sequence[AttentionTarget]],
    masks: Tensor,
    config: GuidanceConfig,
) -> Tensor:
    """x_sigma after one guidance step; each region changes only its own mask."""
    scale, timestep = 1 / host.noise_path.input_scale(sigma), host.noise_path.timestep_at(sigma)
    unit = latent / scale  # x_t, as the network sees it
    at = torch.full((unit.shape[0],), timestep, device=unit.device)
    sites = guided_sites(host.sites, config.downsample)
    for region, of_region, mask in zip(regions, targets, masks, strict=True):
        if not of_region:
            continue

        def forward(moving: Tensor, capture: object, prompt: Prompt = region.prompt) -> object:
            return host.predict(moving, at, [prompt], [capture])  # type: ignore[list-item]

        gradient = latent_gradient(forward, unit, of_region, sites)
        if len(regions) > 1:
            gradient = torch.where(mask > 0, gradient, 0.0)
        unit = moved(unit, gradient, config)
    return unit * scale
