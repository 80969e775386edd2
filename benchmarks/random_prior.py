"""A diffusion prior with random weights, for what a step of ConceptLab costs."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from conceptloom.host.diffusers import DiffusersHost
from conceptloom.vision.prior import DiffusionPrior
from conceptloom.vision.prior_files import prior_on_host

NEGATIVES = ("circle", "square", "triangle", "star", "ring", "cross")  # about half of what is found


def kandinsky_space(host: DiffusersHost) -> DiffusionPrior:
    """A random prior on a base model's text encoder; of Kandinsky 2.1's size where that is CLIP's.

    (20 layers, 32 heads of 64, embeddings of 768; kandinsky2/configs.py:64-163.)
    """
    from diffusers import PriorTransformer, UnCLIPScheduler

    (width,) = host.encoders.values()
    is_clip = width == 768
    sizes: dict[str, Any] = {"num_attention_heads": 32 if is_clip else 2, "embedding_dim": width}
    torch.manual_seed(0)
    with host.device:
        prior = PriorTransformer(
            attention_head_dim=64 if is_clip else 16, num_layers=20 if is_clip else 2, **sizes
        )
    scheduler = UnCLIPScheduler(
        variance_type="fixed_small_log", prediction_type="sample", clip_sample_range=5.0
    )
    return prior_on_host(
        host,
        prior=prior.to(host.device, host.dtype),
        vision=nn.Identity(),
        projection=torch.eye(width, device=host.device),
        scheduler=scheduler,
    )
