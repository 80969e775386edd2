"""Rows and keys of a cross-attention that belong to words, even if other packs add rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..host.ports import AttentionCall, ForwardInfo, Tokens


@dataclass(frozen=True, slots=True)
class PromptRows:
    """Rows of a cross-attention with a prompt that contains a concept."""

    index: list[int] | slice  # a view where they are neighbours
    chosen: Tensor  # [R, K, G] 1 where a key position belongs to a concept in that row
    pictures: Tensor | None  # [R] picture of each of these rows; None where row n is picture n
    holds: Tensor  # [P, G, 1] 1 where a picture's prompt holds the concept
    all_hold: bool
    exist: bool  # whether there is any such row


@torch.inference_mode(False)  # a pass that autograd follows may need the same rows later
def rows_with(
    places: Sequence[Sequence[Sequence[int]]],
    pictures: Sequence[int],
    n_concepts: int,
    context_length: int,
    device: torch.device,
    n_pictures: int = 0,
) -> PromptRows:
    """Rows with positions of some of G concepts.

    Args:
        places: for each row and concept, its key positions.
        pictures: for each row, the picture that it belongs to.
        n_pictures: of the batch, if these rows are a part of it.
    """
    index = [row for row, at in enumerate(places) if any(at)]
    chosen = torch.zeros(len(index), context_length, n_concepts, device=device)
    holds = torch.zeros(max(n_pictures, max(pictures) + 1), n_concepts, 1, device=device)
    for r, row in enumerate(index):
        for g, positions in enumerate(places[row]):
            chosen[r, list(positions), g] = 1
            if positions:
                holds[pictures[row], g] = 1
    picture_of_row = [pictures[row] for row in index]
    neighbours = index == list(range(index[0], index[0] + len(index))) if index else False
    return PromptRows(
        slice(index[0], index[0] + len(index)) if neighbours else index,
        chosen,
        None
        if picture_of_row == list(range(len(holds)))
        else torch.tensor(picture_of_row, device=device),
        holds,
        bool(holds.all()),
        bool(index),
    )


def prompts_of_others(call: AttentionCall) -> Sequence[Tokens]:
    """Tokens of every row if another pack attends to its own prompts, else empty.

    Regional packs repeat the rows of a prompt once per regional prompt, in whole chunks: row r
    still belongs to picture r modulo the number of pictures.
    """
    read, context = call.info.read_context, call.context
    if read is None or len(context) == call.info.latent_shape[0]:
        return ()
    return read(context)


def repeats_rows(info: ForwardInfo, n_rows: int) -> bool:
    """Whether rows of an attention may be those of a pass, repeated by a pack of regions."""
    return info.read_context is not None and n_rows > 0 and n_rows % info.n_pictures == 0


def info_of_others(call: AttentionCall) -> ForwardInfo:
    """A pass as it looks to an attention whose rows another pack has repeated.

    A row with the tokens of a prompt of the pass is one of that prompt; the others are positive.
    """
    info, n_rows = call.info, len(call.context)
    pictures = info.n_pictures
    prompts = prompts_of_others(call) or info.prompts
    known = {tokens: row for row, tokens in enumerate(info.prompts) if tokens}
    known |= {
        tokens: row for row, tokens in enumerate(info.prompts) if tokens and info.conditional[row]
    }
    rows = [known.get(tokens) for tokens in prompts]
    return replace(
        info,
        latent_shape=(n_rows, *info.latent_shape[1:]),
        conditional=tuple(row is None or info.conditional[row] for row in rows),
        context_length=call.context.shape[1],
        prompts=tuple(prompts),
        pictures=tuple(row % pictures for row in range(n_rows)),
        encoded=tuple(range(n_rows)),
        own_texts=tuple(
            info.own_texts[row] if row is not None and info.own_texts else {} for row in rows
        ),
    )
