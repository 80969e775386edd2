"""What a run will need, told before it starts."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from torch import nn

from ..host.ports import Host

MASTER_BYTES = 16  # float32 parameter, gradient and Adam's two moments
# Tensors of [N, width] that one transformer layer, and of [N, width] that one ResNet block, keeps
# for the backward pass; counted on a UNet of SD1's structure (benchmarks/break_a_scene_step.py).
KEPT_BY_LAYER, KEPT_BY_RESNET = 26, 12
MIB = 2**20


@dataclass(frozen=True, slots=True)
class Estimate:
    """Rough needs of a training run, in bytes, beside the base model itself."""

    parameters: int  # how many numbers learn
    learning_bytes: int  # their masters, gradients and optimizer moments
    activation_bytes: int  # kept for the backward pass

    def told(self, steps: int) -> str:
        """One line for the user."""
        total = (self.learning_bytes + self.activation_bytes) / MIB
        return (
            f"{steps} steps, {self.parameters:,} trained numbers, about {total:,.0f} MiB beside "
            f"the model ({self.activation_bytes / MIB:,.0f} MiB of them activations)"
        )


def estimate_of(
    host: Host,
    parameters: Iterable[nn.Parameter],
    latent_size: tuple[int, int],
    rows: int,
    *,
    checkpointing: bool = False,
    bytes_a_number: int = 4,
) -> Estimate:
    """Estimate for batches of `rows` latents of (h, w), class images counted."""
    count = sum(p.numel() for p in parameters)
    cells = latent_size[0] * latent_size[1]
    numbers = 0
    for site in host.sites.transformers:
        layers = 1 if checkpointing else site.depth * KEPT_BY_LAYER
        numbers += layers * site.width * cells // site.level**2
    for block in host.sites.resnets:
        kept = 1 if checkpointing else KEPT_BY_RESNET
        numbers += kept * block.width * cells // block.level**2
    return Estimate(count, count * MASTER_BYTES, numbers * rows * bytes_a_number)
