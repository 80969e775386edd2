"""The device and precision of a network's computation, also if its weights are offloaded.

A pipeline may be offloaded (by diffusers in groups, by accelerate as a whole or layer by layer) or
hold its weights in fewer bits than it computes with. Hooks of those libraries see to it; they stand
on the network or between it and its first weight.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from ...errors import ModelError


def execution_device(network: Any) -> torch.device:
    """Where a network wants its inputs."""
    for module in _way_to_the_first_weight(network):
        if group := _diffusers_hook(module, "group_offloading"):
            return group.config.onload_device
        device = getattr(getattr(module, "_hf_hook", None), "execution_device", None)
        if device is not None:
            return torch.device(device)
    return next(network.parameters()).device


def compute_dtype(network: Any) -> torch.dtype:
    """In which precision a network wants its inputs."""
    for module in _way_to_the_first_weight(network):
        if casting := _diffusers_hook(module, "layerwise_casting"):
            return casting.compute_dtype
    return next(network.parameters()).dtype


@contextmanager
def in_sound_precision(vae: Any) -> Iterator[None]:
    """A VAE that overflows in half precision, as SDXL's does, computes in float32 in here."""
    overflows = vae.dtype is torch.float16 and vae.config.get("force_upcast", False)
    try:
        if overflows:
            vae.to(torch.float32)
        yield
    finally:
        if overflows:
            vae.to(torch.float16)


def _way_to_the_first_weight(network: Any) -> Iterator[Any]:
    # Not all modules: a walk over them is most of the time of a small model's step.
    path, _ = next(network.named_parameters())
    yield network
    for part in path.split(".")[:-1]:
        network = getattr(network, part)
        yield network


def _diffusers_hook(module: Any, name: str) -> Any:
    registry = getattr(module, "_diffusers_hook", None)
    return registry.get_hook(name) if registry is not None else None


def check_in_memory(name: str, weight: torch.Tensor) -> None:
    """Whether a weight can be read.

    Raises:
        ModelError: it is offloaded to where only a forward pass finds it.
    """
    if weight.is_meta:
        raise ModelError(
            f"The weight {name} is not in memory: the pipeline is offloaded layer by layer. Open "
            "it without enable_sequential_cpu_offload (enable_model_cpu_offload works for "
            "drawing)."
        )
