"""The features of a template: size, capture and injection."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import replace

import torch

from ...attention.injection import (
    FeatureCapture,
    FeatureInjection,
    Features,
    InjectionBlocks,
    checked_blocks,
    default_blocks,
    feature_numbers,
    holds,
    injected_steps,
)
from ...errors import ConfigError, ImageError
from ...host.ports import ForwardInfo, Host, Progress, StopForward, UNetSites
from ...samplers.sigmas import output_at
from ...training.free_memory import GIB, free_memory
from .config import InversionConfig, Keep
from .template import Template

MIB = 2**20
SHARE_OF_FREE_RAM = 0.25  # above it, `fitting` has features computed again


def blocks_of(sites: UNetSites, config: InversionConfig) -> InjectionBlocks:
    """The configured blocks, or the paper's.

    Raises:
        ConfigError: the model has no such block.
    """
    default = default_blocks(sites)
    requested = InjectionBlocks(
        config.resnet_blocks or default.resnets, config.attention_blocks or default.attentions
    )
    return checked_blocks(requested, sites)


def kept_steps(config: InversionConfig, steps: int) -> int:
    """The number of first steps with stored features."""
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


def fitting(
    host: Host,
    latent_size: tuple[int, int],
    config: InversionConfig,
    steps: int,
    free: int | None,
) -> InversionConfig:
    """The settings with features in RAM if they leave most of it free, else computed again.

    Args:
        free: bytes of memory; None where nobody knows.
    """
    cost = feature_cost(host, blocks_of(host.sites, config), latent_size, config, steps)
    fits = free is None or cost <= SHARE_OF_FREE_RAM * free
    return replace(config, keep=Keep.RAM if fits else Keep.NOTHING)


def check_room(config: InversionConfig, cost: int, device: torch.device) -> None:
    """Whether a template's features fit where they shall be kept.

    Args:
        cost: their bytes.
        device: of the model.

    Raises:
        ConfigError: there is less memory.
    """
    if config.keep is Keep.NOTHING:
        return
    place = torch.device("cpu") if config.keep is Keep.RAM else device
    free = free_memory(place)
    if free is not None and cost > free:
        raise ConfigError(
            "keep", config.keep.value,
            f"{Keep.NOTHING.value} for this template: its features take {cost / GIB:.1f} GiB, and "
            f"{free / GIB:.1f} GiB are free. Fewer steps or lower shares of them (resnet_until, "
            "attention_until) take less",
        )  # fmt: skip


def describe_size(
    host: Host,
    blocks: InjectionBlocks,
    latent_size: tuple[int, int],
    config: InversionConfig,
    steps: int,
) -> str:
    """One line for the user."""
    if config.keep is Keep.NOTHING:
        return f"{steps} steps; the fuser recomputes features"
    size = feature_cost(host, blocks, latent_size, config, steps) / MIB
    where = "RAM" if config.keep is Keep.RAM else "the model's device"
    return f"{steps} steps; stores {size:,.1f} MiB of features in {where}"


def with_features(
    host: Host, template: Template, config: InversionConfig, n_stored: int, progress: Progress
) -> Template:
    """The template with the features of its first `n_stored` steps, in half precision."""
    device = torch.device("cpu") if config.keep is Keep.RAM else host.device
    half, steps = _half(host.dtype), template.steps
    resnet_steps = injected_steps(config.resnet_until, steps)
    attention_steps = injected_steps(config.attention_until, steps)
    recorded: list[Features] = []
    for step in range(n_stored):
        features = computed_features(
            host, template, step,
            resnets=step < resnet_steps, attentions=step < attention_steps,
        )  # fmt: skip
        recorded.append({key: value.to(device, half) for key, value in features.items()})
        progress(step + 1, n_stored, "keeping features")
    return replace(template, features=tuple(recorded))


@torch.no_grad()
def computed_features(
    host: Host, template: Template, step: int, *, resnets: bool = True, attentions: bool = True
) -> Features:
    """f_t^l of one step, by a pass at the inverted latents that stops after the last of them."""
    capture = capture_for(host.sites, template.blocks, resnets=resnets, attentions=attentions)
    noisy = template.trajectory[step : step + 1].to(host.device)
    with contextlib.suppress(StopForward):
        output_at(host, noisy, float(template.sigmas[step]), [template.prompt], [capture])
    return capture.features


def capture_for(
    sites: UNetSites, blocks: InjectionBlocks, *, resnets: bool, attentions: bool
) -> FeatureCapture:
    """An edit that records the requested features and stops the pass."""
    return FeatureCapture(blocks.sites(sites, resnets=resnets, attentions=attentions), stop=True)


def injection_of(
    template: Template,
    recompute: Callable[[int, bool, bool], Features],
    *,
    resnet_until: float,
    attention_until: float,
) -> FeatureInjection:
    """The edit that injects the template's features; missing ones are computed again.

    Args:
        recompute: called with a step, and whether ResNet and attention features are needed.
    """
    resnet_steps = injected_steps(resnet_until, template.steps)
    attention_steps = injected_steps(attention_until, template.steps)

    def features_at(step: int) -> Features:
        stored = template.features[step] if step < len(template.features) else {}
        resnets = step < resnet_steps and bool(template.blocks.resnets)
        attentions = step < attention_steps and bool(template.blocks.attentions)
        lacks_content = resnets and not holds(stored, content=True)
        if lacks_content or (attentions and not holds(stored, content=False)):
            return recompute(step, resnets, attentions)
        return stored

    def step_of(info: ForwardInfo) -> int:
        height, width = template.trajectory.shape[-2:]
        if info.latent_shape[-2:] != (height, width):
            raise ImageError(
                f"The sampler draws latents of {info.latent_shape[-1]}x{info.latent_shape[-2]}, "
                f"but the template's are {width}x{height}; connect the template's latent."
            )
        return template.step_at(float(info.timesteps[0]))

    return FeatureInjection(
        template.blocks, step_of, features_at,
        resnet_steps=resnet_steps, attention_steps=attention_steps,
    )  # fmt: skip


def _half(dtype: torch.dtype) -> torch.dtype:
    return torch.bfloat16 if dtype is torch.bfloat16 else torch.float16
