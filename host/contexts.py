"""Prompts of different lengths in one batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import lcm

import torch
from torch import Tensor

from ..errors import PromptError
from .ports import BatchPart, ForwardInfo, Prompt, StopForward, TextLayout, UNetEdit

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

    Edits learn from rows of positive prompts where words are. So these come first, and where they
    take several passes, negative ones wait for all of them.
    """
    check_number(prompts, rows)
    each = prompts if len(prompts) == rows else [prompts[0]] * rows
    is_negative = [conditional is not None and not conditional[row] for row in range(rows)]
    lengths = [prompt.context.shape[1] for prompt in each]
    several = len({length for length, late in zip(lengths, is_negative, strict=True) if not late})
    groups: dict[tuple[int, bool], list[int]] = {}
    for row in sorted(range(rows), key=is_negative.__getitem__):
        groups.setdefault((lengths[row], several > 1 and is_negative[row]), []).append(row)
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
    part: BatchPart | None = None,
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
        part=part,
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
        one_pass: like `Host.predict`; then the picture of each row, and which part it is.

    Raises:
        StopForward: an edit ended the passes, each of them for itself.
    """
    rows = len(latent)
    is_conditional = tuple(conditional) if conditional is not None else (True,) * rows
    pictures, times = pictures_of(is_conditional), timesteps.expand(rows)
    each = prompts if len(prompts) == rows else [prompts[0]] * rows
    parts: list[Tensor] = []
    ended: StopForward | None = None
    for number, group in enumerate(groups):
        part = BatchPart(number, tuple(group), max(pictures) + 1)
        try:
            parts.append(
                one_pass(
                    latent[list(group)], times[list(group)], [each[row] for row in group], edits,
                    [is_conditional[row] for row in group], [pictures[row] for row in group], part,
                )
            )  # fmt: skip
        except StopForward as stop:
            ended = stop
    if ended is not None:
        raise ended
    order = torch.tensor([row for group in groups for row in group])
    return torch.cat(parts)[order.argsort()]
