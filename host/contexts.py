"""Prompts of different lengths in one batch."""

from __future__ import annotations

from collections.abc import Sequence
from math import lcm

import torch
from torch import Tensor

from ..errors import PromptError
from .ports import ForwardInfo, Prompt, TextLayout

PLAIN = TextLayout()


def batched_context(prompts: Sequence[Prompt], rows: int) -> Tensor:
    """Contexts of all rows, [B, K, width]; shorter prompts are repeated to a common length.

    Repeating leaves cross-attention unchanged: every key occurs equally often, and the softmax
    cancels the repeats (ComfyUI does the same).
    """
    if len(prompts) not in (1, rows):
        raise PromptError(f"{len(prompts)} prompts came for {rows} latents; pass one, or {rows}.")
    length = lcm(*(p.context.shape[1] for p in prompts))
    context = [p.context.repeat(1, length // p.context.shape[1], 1) for p in prompts]
    return torch.cat(context) if len(context) == rows else context[0].expand(rows, -1, -1)


def batched_pooled(prompts: Sequence[Prompt], rows: int) -> Tensor | None:
    """Pooled outputs of all rows, [B, width], for models that take them."""
    pooled = [p.pooled for p in prompts if p.pooled is not None]
    if not pooled:
        return None
    return torch.cat(pooled) if len(pooled) == rows else pooled[0].expand(rows, -1)


def info_of(
    latent: Tensor,
    timesteps: Tensor,
    prompts: Sequence[Prompt],
    context: Tensor,
    conditional: Sequence[bool] | None,
    text: TextLayout = PLAIN,
) -> ForwardInfo:
    """Information for edits about a forward pass with known prompts."""
    rows = latent.shape[0]
    is_conditional = tuple(conditional) if conditional is not None else (True,) * rows
    each = prompts if len(prompts) == rows else [prompts[0]] * rows
    return ForwardInfo(
        tuple(latent.shape),
        timesteps,
        is_conditional,
        context.shape[1],
        tuple(p.tokens for p in each),
        # Row n of the negative prompt belongs to row n of the positive one.
        tuple(is_conditional[:row].count(is_conditional[row]) for row in range(rows)),
        tuple(p.serial for p in each),
        tuple(p.own_texts for p in each),
        text=text,
    )
