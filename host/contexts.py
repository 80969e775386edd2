"""Prompts of different lengths in one batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import lcm

import torch
from torch import Tensor

from ..errors import PromptError
from .ports import ForwardInfo, Prompt, TextLayout, UNetEdit

PLAIN = TextLayout()


def check_number(prompts: Sequence[Prompt], rows: int) -> None:
    """PromptError where there is neither one prompt nor one for each row."""
    if len(prompts) not in (1, rows):
        raise PromptError(f"{len(prompts)} prompts came for {rows} latents; pass one, or {rows}.")


def batched_context(prompts: Sequence[Prompt], rows: int) -> Tensor:
    """Contexts of all rows, [B, K, width]; shorter prompts are repeated to a common length.

    Repeating leaves cross-attention unchanged: every key occurs equally often, and the softmax
    cancels the repeats (ComfyUI does the same).
    """
    check_number(prompts, rows)
    length = lcm(*(p.context.shape[1] for p in prompts))
    context = [p.context.repeat(1, length // p.context.shape[1], 1) for p in prompts]
    return torch.cat(context) if len(context) == rows else context[0].expand(rows, -1, -1)


def rows_by_length(
    prompts: Sequence[Prompt], rows: int, conditional: Sequence[bool] | None
) -> list[list[int]]:
    """Numbers of rows that can share a pass where prompts may not be repeated: those of one length.

    Rows of positive prompts come first, for edits learn from them where words are.
    """
    check_number(prompts, rows)
    each = prompts if len(prompts) == rows else [prompts[0]] * rows
    groups: dict[int, list[int]] = {}
    order = sorted(range(rows), key=lambda row: conditional is not None and not conditional[row])
    for row in order:
        groups.setdefault(each[row].context.shape[1], []).append(row)
    return [sorted(group) for group in groups.values()]


def pictures_of(conditional: Sequence[bool]) -> tuple[int, ...]:
    """Picture of each row: row n of the negative prompt belongs to row n of the positive one."""
    return tuple(conditional[:row].count(conditional[row]) for row in range(len(conditional)))


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
    pictures: Sequence[int] | None = None,
) -> ForwardInfo:
    """Information for edits about a forward pass with known prompts.

    Args:
        pictures: of each row, where the rows are a part of a batch.
    """
    rows = latent.shape[0]
    is_conditional = tuple(conditional) if conditional is not None else (True,) * rows
    each = prompts if len(prompts) == rows else [prompts[0]] * rows
    return ForwardInfo(
        tuple(latent.shape),
        timesteps,
        is_conditional,
        context.shape[1],
        tuple(p.tokens for p in each),
        tuple(pictures) if pictures is not None else pictures_of(is_conditional),
        tuple(p.serial for p in each),
        tuple(p.own_texts for p in each),
        text=text,
    )


def in_groups(
    one_pass: Callable[..., Tensor],
    groups: Sequence[Sequence[int]],
    latent: Tensor,
    timesteps: Tensor,
    prompts: Sequence[Prompt],
    edits: Sequence[UNetEdit],
    conditional: Sequence[bool] | None,
) -> Tensor:
    """A batch in several passes, each with the rows of a group.

    Args:
        one_pass: like `Host.predict`, and the picture of each row.
    """
    rows = len(latent)
    is_conditional = tuple(conditional) if conditional is not None else (True,) * rows
    pictures, times = pictures_of(is_conditional), timesteps.expand(rows)
    each = prompts if len(prompts) == rows else [prompts[0]] * rows
    parts = [
        one_pass(
            latent[list(group)], times[list(group)], [each[row] for row in group], edits,
            [is_conditional[row] for row in group], [pictures[row] for row in group],
        )
        for group in groups
    ]  # fmt: skip
    order = torch.tensor([row for group in groups for row in group])
    return torch.cat(parts)[order.argsort()]
