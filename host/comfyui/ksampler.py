"""The host's KSampler with prompts and a callback, for nodes that include a sampler."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import comfy.sample
import comfy.samplers
import latent_preview
import numpy as np
import torch
from torch import Tensor

from .sampling import conditioning_of, noise_for, samples_of, with_samples

SAMPLERS, SCHEDULERS = comfy.samplers.SAMPLER_NAMES, comfy.samplers.SCHEDULER_NAMES
OnStep = Callable[[int, int, Tensor | None], None]  # step, total, rough picture [H, W, 3]


@dataclass(frozen=True, kw_only=True, slots=True)
class KSamplerCall:
    """What a KSampler is asked for, prompts as text."""

    positive: str
    negative: str
    seed: int
    steps: int
    cfg: float
    sampler: str
    scheduler: str
    denoise: float = 1.0


def sampled(
    model: Any, clip: Any, latent: Mapping[str, Any], call: KSamplerCall, on_step: OnStep
) -> dict[str, Any]:
    """A LATENT from a LATENT, the same that the host's KSampler gives.

    Args:
        on_step: called after every step; the rough picture is None if previews are disabled.
    """
    positive, negative = (conditioning_of(clip, text) for text in (call.positive, call.negative))
    samples = samples_of(model, latent)
    noise = noise_for(latent, samples, call.seed)
    previewer = latent_preview.get_previewer(model.load_device, model.model.latent_format)

    def callback(step: int, x0: Tensor, x: Tensor, total: int) -> None:
        rough = None
        if previewer is not None:
            pixels = previewer.decode_latent_to_preview(x0).convert("RGB")
            rough = torch.from_numpy(np.array(pixels)).float() / 255
        on_step(step + 1, total, rough)

    drawn = comfy.sample.sample(
        model,
        noise,
        call.steps,
        call.cfg,
        call.sampler,
        call.scheduler,
        positive,
        negative,
        samples,
        denoise=call.denoise,
        noise_mask=latent.get("noise_mask"),
        callback=callback,
        disable_pbar=True,
        seed=call.seed,
    )
    return with_samples(latent, drawn)
