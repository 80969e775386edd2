"""The template: a picture as the noise it comes from, with the features it passes through (Step 3).

template.trajectory[k]   z_t at the sampler's sigma number k, from noise to the picture
features_at(step)        f_t^l at that point: ResNet residual, queries and keys
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ...attention.injection import (
    FeatureCapture,
    FeatureInjection,
    Features,
    InjectionBlocks,
    checked_blocks,
    default_blocks,
    feature_numbers,
    injected_steps,
)
from ...errors import BaseMismatchError, ConfigError, ImageError, MaskError
from ...host.ports import (
    ForwardInfo,
    Host,
    Progress,
    Prompt,
    StopForward,
    UNetSites,
    no_progress,
)
from ...samplers.inversion import invert, psnr, reconstruct
from ...samplers.sigmas import SAME_SIGMA, checked_sigmas, noise_at, timestep_at
from ...training.keys import model_digest
from .config import InversionConfig, Keep

MIB = 2**20
SAME_ASPECT = 0.02  # relative difference up to which a mask is the template's


@dataclass(frozen=True, slots=True, eq=False)
class Template:
    """An inverted picture.

    Attributes:
        image: [H, W, 3], 0..1.
        prompt: p_src.
        sigmas: [S + 1] of the sampler that draws it again, falling to 0.
        trajectory: [S + 1, C, h, w] x_sigma at each of them, float32 on the CPU.
        timesteps: [S] at which the UNet is asked.
        blocks: where features are taken.
        features: of the first steps, as many as are kept.
        reconstruction: [H, W, 3] what the sampler draws from the noise.
        psnr: of it against what the VAE makes of the picture, in decibel.
        base, model: fingerprint of the family, digest of the very checkpoint.
    """

    image: Tensor
    prompt: Prompt
    sigmas: Tensor
    trajectory: Tensor
    timesteps: tuple[int, ...]
    blocks: InjectionBlocks
    features: tuple[Features, ...]
    reconstruction: Tensor
    psnr: float
    base: str
    model: str

    @property
    def steps(self) -> int:
        return len(self.timesteps)

    def step_at(self, timestep: float) -> int:
        """The step that a pass of the UNet belongs to; the nearest one for samplers that look
        between two noise levels."""
        distances = [abs(known - timestep) for known in self.timesteps]
        return distances.index(min(distances))

    def feature_bytes(self) -> int:
        """What the kept features occupy."""
        return sum(t.numel() * t.element_size() for of in self.features for t in of.values())


def make_template(
    host: Host,
    image: Tensor,
    text: str,
    sigmas: Tensor,
    config: InversionConfig | None = None,
    *,
    progress: Progress = no_progress,
) -> Template:
    """Invert a picture, draw it again to see how well that works, and keep its features.

    Args:
        image: [1, H, W, 3], 0..1.
        text: p_src, what the picture shows; the paper takes the base prompt.
        sigmas: [S + 1] of the sampler to come; `config.steps` is not looked at.
        progress: told of every step, first with the size of what will be kept; may raise.
    """
    config = config or InversionConfig()
    if image.ndim != 4 or image.shape[0] != 1:
        raise ImageError(
            f"The template has the shape {list(image.shape)}; give one picture, 1 x height x "
            "width x 3."
        )
    sigmas = checked_sigmas(sigmas)
    steps = len(sigmas) - 1
    blocks = blocks_of(host.sites, config)
    prompt, latent = host.encode_prompt(text), host.encode_image(image[..., :3])
    size = (latent.shape[-2], latent.shape[-1])
    kept = 0 if config.keep is Keep.NOTHING else kept_steps(config, steps)
    told = size_told(host, blocks, size, config, steps)
    total = 2 * steps + kept
    progress(0, total, told)
    trajectory = invert(
        host, latent, prompt, sigmas, refinements=config.refinements,
        progress=_from(progress, 0, total),
    )  # fmt: skip
    again = reconstruct(
        host, trajectory[:1], prompt, sigmas, progress=_from(progress, steps, total)
    )
    with torch.no_grad():
        shown, seen = host.decode_latent(again)[0], host.decode_latent(latent)[0]
    template = Template(
        image=image[0, ..., :3].float().cpu(),
        prompt=prompt,
        sigmas=sigmas,
        trajectory=trajectory.cpu(),
        timesteps=tuple(timestep_at(host.schedule, s) for s in sigmas[:-1].tolist()),
        blocks=blocks,
        features=(),
        reconstruction=shown,
        psnr=psnr(shown, seen),
        base=host.fingerprint,
        model=model_digest(host),
    )
    return _with_features(host, template, config, kept, _from(progress, 2 * steps, total))


def blocks_of(sites: UNetSites, config: InversionConfig) -> InjectionBlocks:
    """The configured blocks, or the paper's.

    Raises:
        ConfigError: the model has no such block.
    """
    default = default_blocks(sites)
    wanted = InjectionBlocks(
        config.resnet_blocks or default.resnets, config.attention_blocks or default.attentions
    )
    return checked_blocks(wanted, sites)


def kept_steps(config: InversionConfig, steps: int) -> int:
    """How many of the first steps leave features behind."""
    return injected_steps(max(config.resnet_until, config.attention_until), steps)


def feature_cost(
    host: Host,
    blocks: InjectionBlocks,
    latent_size: tuple[int, int],
    config: InversionConfig,
    steps: int,
) -> int:
    """Bytes that the features of a template will occupy, known before any is computed."""
    resnets, attentions = feature_numbers(host.sites, blocks, latent_size)
    numbers = resnets * injected_steps(config.resnet_until, steps)
    numbers += attentions * injected_steps(config.attention_until, steps)
    return numbers * _half(host.dtype).itemsize


def size_told(
    host: Host,
    blocks: InjectionBlocks,
    latent_size: tuple[int, int],
    config: InversionConfig,
    steps: int,
) -> str:
    """One line for the user."""
    if config.keep is Keep.NOTHING:
        return f"{steps} steps; features are computed again when they are used"
    size = feature_cost(host, blocks, latent_size, config, steps) / MIB
    where = "RAM" if config.keep is Keep.RAM else "the model's device"
    return f"{steps} steps; {size:,.1f} MiB of features will be kept in {where}"


def _with_features(
    host: Host, template: Template, config: InversionConfig, kept: int, progress: Progress
) -> Template:
    device = torch.device("cpu") if config.keep is Keep.RAM else host.device
    half, steps = _half(host.dtype), template.steps
    resnet_steps = injected_steps(config.resnet_until, steps)
    attention_steps = injected_steps(config.attention_until, steps)
    found: list[Features] = []
    for step in range(kept):
        features = computed_features(
            host, template, step,
            resnets=step < resnet_steps, attentions=step < attention_steps,
        )  # fmt: skip
        found.append({key: value.to(device, half) for key, value in features.items()})
        progress(step + 1, kept, "keeping features")
    return replace(template, features=tuple(found))


@torch.no_grad()
def computed_features(
    host: Host, template: Template, step: int, *, resnets: bool = True, attentions: bool = True
) -> Features:
    """f_t^l of one step, by a pass at the inverted latents that ends as soon as they are there."""
    capture = capture_for(host.sites, template.blocks, resnets=resnets, attentions=attentions)
    noisy = template.trajectory[step : step + 1].to(host.device)
    with contextlib.suppress(StopForward):
        noise_at(host, noisy, float(template.sigmas[step]), [template.prompt], [capture])
    return capture.features


def capture_for(
    sites: UNetSites, blocks: InjectionBlocks, *, resnets: bool, attentions: bool
) -> FeatureCapture:
    """An edit that keeps the wanted features and ends the pass."""
    return FeatureCapture(
        blocks.resnet_sites(sites) if resnets else (),
        blocks.attention_sites(sites) if attentions else (),
        stop=True,
    )


def injection_of(
    template: Template,
    recompute: Callable[[int, bool, bool], Features],
    *,
    resnet_until: float,
    attention_until: float,
) -> FeatureInjection:
    """The edit that puts the template's features in; what was not kept is computed again.

    Args:
        recompute: features of a step: ResNets wanted, attentions wanted.
    """
    resnet_steps = injected_steps(resnet_until, template.steps)
    attention_steps = injected_steps(attention_until, template.steps)

    def features_at(step: int) -> Features:
        kept = template.features[step] if step < len(template.features) else {}
        kinds = {kind for kind, _, _ in kept}
        resnets = step < resnet_steps and bool(template.blocks.resnets)
        attentions = step < attention_steps and bool(template.blocks.attentions)
        if (resnets and "resnet" not in kinds) or (attentions and "query" not in kinds):
            return recompute(step, resnets, attentions)
        return kept

    def step_of(info: ForwardInfo) -> int:
        height, width = template.trajectory.shape[-2:]
        if info.latent_shape[-2:] != (height, width):
            raise ImageError(
                f"The sampler draws latents of {info.latent_shape[-1]}x{info.latent_shape[-2]}, "
                f"but the template has {width}x{height}; connect the template's own latent."
            )
        return template.step_at(float(info.timesteps[0]))

    return FeatureInjection(
        template.blocks, step_of, features_at,
        resnet_steps=resnet_steps, attention_steps=attention_steps,
    )  # fmt: skip


def check_sigmas(template: Template, sigmas: Tensor) -> None:
    """Whether a sampler walks along the template's noise levels, from one of them to the end.

    Raises:
        ConfigError: it has others.
    """
    known, found = template.sigmas, sigmas.detach().float().cpu().reshape(-1)
    tail = known[-len(found) :] if len(found) > 1 else found[:0]
    same = len(tail) == len(found) > 1
    same = same and torch.allclose(tail, found, rtol=SAME_SIGMA, atol=1e-4)
    if not same:
        told = f"{len(found) - 1} steps from sigma {float(found[0]):.4g}" if len(found) else "none"
        raise ConfigError(
            "sigmas",
            told,
            f"those of the template ({template.steps} steps from {float(known[0]):.4g}); connect "
            "the sigmas that the template gives to the sampler, or invert it again with the "
            "sampler's",
        )


def check_template(
    template: Template, fingerprint: str, digest: str, mask_size: tuple[int, int]
) -> None:
    """Whether a template fits the model and the regions.

    Args:
        fingerprint, digest: of the model to weave with.
        mask_size: (H, W) of the regions.

    Raises:
        BaseMismatchError: it was inverted on another model.
        MaskError: the regions are of another picture.
    """
    if template.base != fingerprint or template.model != digest:
        same_family = template.base == fingerprint
        raise BaseMismatchError(
            "The template was inverted on another model than the one it is woven with"
            + (" (the same family, another checkpoint)" if same_family else "")
            + f": [{template.base}] against [{fingerprint}]. Invert the picture again on this one."
        )
    height, width = template.image.shape[:2]
    aspect = (mask_size[1] / mask_size[0]) / (width / height)
    if abs(aspect - 1) > SAME_ASPECT:
        raise MaskError(
            f"The regions are {mask_size[1]}x{mask_size[0]} px but the template is {width}x"
            f"{height} px, another aspect; make the masks from the template's own picture."
        )


def _half(dtype: torch.dtype) -> torch.dtype:
    return torch.bfloat16 if dtype is torch.bfloat16 else torch.float16


def _from(progress: Progress, offset: int, whole: int) -> Progress:
    """A part of a longer work, as its own."""

    def report(step: int, total: int, message: str = "", preview: Tensor | None = None) -> None:
        progress(offset + step, whole, message, preview)

    return report
