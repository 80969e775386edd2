"""Estimates memory, disk space and time of a run."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from ..host.ports import Host, Progress, Role, Rows, UNetSites
from .checkpoints import KEPT
from .divergence import remaining
from .previews import Previews
from .recipe import LoopConfig, Recipe

MASTER_BYTES = 16  # float32 parameter, gradient and Adam's two moments
# Tensors of [N, width] that one transformer layer, and of [N, width] that one ResNet block, keeps
# for the backward pass; counted on a UNet of SD1's structure (benchmarks/speed/break_a_scene.py).
KEPT_BY_LAYER, KEPT_BY_RESNET = 26, 12
# How many forward passes a step lasts, by the same benchmark; recomputing activations is one more.
PASSES_OF_STEP = 4
STATE_BYTES = 12  # of a saved state: parameter and Adam's two moments
MIB = 2**20


@dataclass(frozen=True, slots=True)
class Estimate:
    """Rough needs of a training run: time, and memory in bytes besides the base model."""

    parameters: int  # how many numbers learn
    learning_bytes: int  # their masters, gradients and optimizer moments
    activation_bytes: int  # kept for the backward pass
    batch_seconds: float  # of one batch, forward and backward
    picture_seconds: float = 0.0  # of all pictures that are drawn before, meanwhile and at the end

    def summary(self, steps: int, accumulation: int = 1) -> str:
        """One line for the user; a step takes `accumulation` batches."""
        total = (self.learning_bytes + self.activation_bytes) / MIB
        seconds = self.batch_seconds * steps * accumulation + self.picture_seconds
        text = (
            f"{steps} steps, {self.parameters:,} trained parameters, about {total:,.0f} MiB "
            f"besides the model ({self.activation_bytes / MIB:,.0f} MiB of them activations), "
            f"about {remaining(seconds, 1, 1)}"
        )
        if self.picture_seconds:
            text += f", including {remaining(self.picture_seconds, 1, 1)} for pictures"
        return text

    @property
    def describe_states(self) -> str:
        """Size of saved states on disk."""
        size = self.parameters * STATE_BYTES / MIB
        return f"a saved state takes {size:,.1f} MiB on disk; the run keeps the last {KEPT}"


class RecipeOfPictures(Recipe, Protocol):
    """A recipe with forward passes of a base model."""

    host: Host
    config: Any  # has `checkpointing` and `accumulation`

    @property
    def latent_size(self) -> tuple[int, int]: ...


def report_estimate(
    recipe: RecipeOfPictures,
    rows: int,
    loop: LoopConfig,
    preview: Previews,
    progress: Progress,
    *,
    folder: Path | None,
    more_passes: int = 0,
) -> str:
    """Report and return a one-line estimate before the first step.

    Args:
        rows: latents of the largest forward pass.
        folder: of its states; None saves none.
        more_passes: of one row, for pictures drawn before training.
    """
    config, total = recipe.config, sum(phase.steps for phase in recipe.phases())
    estimate = estimate_of(
        recipe.host,
        recipe.named_parameters().values(),
        recipe.latent_size,
        rows,
        checkpointing=config.checkpointing,
        picture_passes=more_passes + loop.previews_of(total) * preview.passes,
    )
    message = estimate.summary(total, config.accumulation)
    if folder is not None:
        message += f"; {estimate.describe_states}"
    progress(0, total, message)
    return message


def estimate_of(
    host: Host,
    parameters: Iterable[nn.Parameter],
    latent_size: tuple[int, int],
    rows: int,
    *,
    checkpointing: bool = False,
    bytes_a_number: int = 4,
    picture_passes: int = 0,
) -> Estimate:
    """Estimate for batches of `rows` latents of (h, w), including class images.

    Measures one forward pass of one row.
    """
    count = sum(p.numel() for p in parameters)
    cells = latent_size[0] * latent_size[1]
    if host.sites.kept_by_block:  # they compute in their own precision
        numbers = _kept_by_transformer(host.sites, cells, checkpointing)
        bytes_a_number = host.dtype.itemsize
    else:
        numbers = _kept_by_unet(host.sites, cells, checkpointing)
    passes = rows * (PASSES_OF_STEP + checkpointing)
    seconds = _seconds_of_pass(host, latent_size)
    return Estimate(
        count,
        count * MASTER_BYTES,
        numbers * rows * bytes_a_number,
        passes * seconds,
        picture_passes * seconds,
    )


def _kept_by_unet(sites: UNetSites, cells: int, checkpointing: bool) -> int:
    numbers = 0
    for site in sites.transformers:
        layers = 1 if checkpointing else site.depth * KEPT_BY_LAYER
        numbers += layers * site.width * cells // site.downsample**2
    for block in sites.resnets:
        stored_per_resnet = 1 if checkpointing else KEPT_BY_RESNET
        numbers += stored_per_resnet * block.width * cells // block.downsample**2
    return numbers


def _kept_by_transformer(sites: UNetSites, cells: int, checkpointing: bool) -> int:
    """Of a transformer's blocks, those of the picture alone among them; when they are computed
    again, each keeps its input, and the one at hand everything.
    """
    first = sites.transformers[0]
    refiners = {
        ".".join(site.name.split(".")[:2])
        for site in sites.layers
        if site.block is None and site.rows is Rows.JOINT and Role.LINEAR in site.roles
    }
    blocks = len(sites.transformers) + len(refiners)
    tensors = blocks + sites.kept_by_block if checkpointing else blocks * sites.kept_by_block
    return tensors * first.width * cells // first.downsample**2


@torch.no_grad()
def _seconds_of_pass(host: Host, latent_size: tuple[int, int]) -> float:
    """Seconds of one row's pass, after the model is on its device."""
    prompt = host.encode_prompt("")
    latent = torch.zeros(1, host.latent_channels, *latent_size, device=host.device)
    timestep = torch.zeros(1, dtype=torch.long, device=host.device)
    began = 0.0
    for _ in range(1 if host.device.type == "cpu" else 2):  # the first one loads and warms up
        began = time.monotonic()
        float(host.predict(latent, timestep, [prompt]).sum())  # a number has to be waited for
    return time.monotonic() - began
