"""How a prompt becomes rows for Anima: Qwen3's tokens, and T5's for the adapter.

Both hosts lay it out as ComfyUI's own text node does; weights count for T5's rows alone. A handle
has vectors of its own in both rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...errors import PromptError
from ..conditioning import HandleVectors, Token
from ..prompt_text import split_at_handles, weighted_pieces
from .anima import END, PAD, QWEN, QWEN_PAD, ROWS, SPARE, T5

Ids = Callable[[str], Sequence[int]]  # a text -> its ids, without anything around them
Row = int | tuple[str, int]  # a token, or one vector of a handle: (name, number)


@dataclass(frozen=True, slots=True)
class AnimaRows:
    """A prompt as the two of them read it."""

    qwen: tuple[Row, ...]
    t5: tuple[Row, ...]  # the end token included
    weights: tuple[float, ...]  # of T5's rows

    @property
    def tokens(self) -> tuple[Token, ...]:
        """Of every row of the context."""
        named = [row if isinstance(row, int) else row[0] for row in self.t5]
        return (*named, *[PAD] * (ROWS - len(named)))

    def ids(self) -> Tensor:
        """[1, n] T5's ids; a spare one where a handle's vector comes."""
        return torch.tensor([[row if isinstance(row, int) else SPARE for row in self.t5]])


def rows_of(text: str, vectors: HandleVectors, qwen: Ids, t5: Ids) -> AnimaRows:
    """The rows of a prompt.

    Args:
        vectors: of the handles that may stand in it.
        qwen, t5: the two tokenizers, without start and end.
    """
    read: dict[str, list[tuple[Row, float]]] = {QWEN: [], T5: []}
    for part, weight in weighted_pieces(text):
        pieces = list(split_at_handles(part, vectors))
        for number, (piece, is_handle) in enumerate(pieces):
            is_before_handle = number + 1 < len(pieces) and pieces[number + 1][1]
            for name, ids in ((QWEN, qwen), (T5, t5)):
                if is_handle:
                    rows: Sequence[Row] = [
                        (piece, i) for i in range(len(vectors_of(vectors, piece, name)))
                    ]
                else:  # a word's token begins with the space before it
                    rows = ids(piece.rstrip() if is_before_handle else piece)
                read[name] += ((row, weight) for row in rows)
    t5_rows = read[T5]
    return AnimaRows(
        tuple(row for row, _ in read[QWEN]) or (QWEN_PAD,),
        (*(row for row, _ in t5_rows), END),
        (*(weight for _, weight in t5_rows), 1.0),
    )


def vectors_of(handles: HandleVectors, name: str, encoder: str) -> Tensor:
    """[n, width] vectors of a handle.

    Raises:
        PromptError: it was learned on a model of another family.
    """
    vectors = handles[name].get(encoder)
    if vectors is None:
        raise PromptError(
            f"<{name}> has no vectors for {encoder} (it has {', '.join(handles[name])}); the "
            "concept was trained on another kind of base model. Load a model of its family."
        )
    return vectors.reshape(-1, vectors.shape[-1])


def spliced(looked_up: Tensor, rows: Sequence[Row], handles: HandleVectors, encoder: str) -> Tensor:
    """[1, n, width] of a token table, with the vectors of handles in their places."""
    if all(isinstance(row, int) for row in rows):
        return looked_up
    return torch.stack(
        [
            looked_up[0, place]
            if isinstance(row, int)
            else vectors_of(handles, row[0], encoder)[row[1]].to(looked_up)
            for place, row in enumerate(rows)
        ]
    )[None]


def padded(context: Tensor) -> Tensor:
    """A context [1, K, width] with the zeros behind it that the model learned with."""
    missing = ROWS - context.shape[1]
    return context if missing <= 0 else torch.nn.functional.pad(context, (0, 0, 0, missing))
