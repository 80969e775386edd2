"""The captions of the shards, which hold CLIP's tokens, in the tokens of the transformers.

So one set of encoded shards serves the UNet and both transformers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..checkpoint import load_tokenizer
from ..dit.tokens import (
    QWEN_END,
    T5_END,
    TEMPLATE,
    Rows,
    qwen_ids,
    qwen_rows,
    qwen_word,
    t5_rows,
    t5_word,
)
from .diffusion_training import NO_CAPTION, STRANGE_WORD
from .shards import UNKNOWN_ROWS, Samples, world_token_ids

WORD_END = "</w>"
STRANGE = ""  # stands for a word that the model does not know


@dataclass(frozen=True, slots=True)
class Said:
    """A word of a caption, and of what it speaks in the coding of `Samples.spoken`."""

    text: str
    of: int


@dataclass(frozen=True)
class Told:
    """Captions as an encoder reads them.

    Attributes:
        rows:    [B, L] rows of its table, filled up at the end.
        lengths: [B] tokens of each.
        spoken:  [B, L] of what each token speaks; the coding of `Samples.spoken`.
    """

    rows: Tensor
    lengths: Tensor
    spoken: Tensor

    @property
    def present(self) -> Tensor:
        """[B, L] whether there is a token."""
        return torch.arange(self.rows.shape[1]) < self.lengths[:, None]


def words_of(rows: NDArray[np.int16], spoken: NDArray[np.uint8]) -> list[Said]:
    """The words of one caption out of its CLIP rows."""
    pieces, words, text = _clip_pieces(), [], ""
    for row, code in zip(rows[1:], spoken[1:], strict=True):
        piece = pieces[int(row)]
        if piece is None:  # end
            break
        text += piece.removesuffix(WORD_END)
        if piece.endswith(WORD_END):
            words.append(Said(text, int(code)))
            text = ""
    return words


@cache
def _clip_pieces() -> list[str | None]:
    tokens = load_tokenizer().convert_ids_to_tokens(world_token_ids())
    return [None, None, *(str(token) for token in tokens[2:])]


def changed(words: list[Said], rng: np.random.Generator) -> list[Said]:
    """The words with some captions emptied and some strange words put in."""
    dice = rng.random()
    if dice < NO_CAPTION:
        return []
    if dice < NO_CAPTION + STRANGE_WORD:
        at = int(rng.integers(len(words) + 1))
        plain = [Said(word.text, 0) for word in words]
        return [*plain[:at], Said(STRANGE, 0), *plain[at:]]
    return words


def captions(samples: Samples, rng: np.random.Generator) -> list[list[Said]]:
    """What is said of each sample of a batch."""
    return [
        changed(words_of(row, code), rng)
        for row, code in zip(samples.rows, samples.spoken, strict=True)
    ]


class Reader:
    """One encoder's way to read captions.

    Args:
        rows:   of its table.
        word:   ids of one word.
        before, after: ids around the words.
        empty:  ids where nothing is said; None: as if there were no words.
    """

    def __init__(
        self,
        rows: Rows,
        word: Callable[[str], list[int]],
        before: Sequence[int] = (),
        after: Sequence[int] = (),
        empty: Sequence[int] | None = None,
    ) -> None:
        self.rows, self._ids = rows, word
        self.before, self.after = rows.of(before), rows.of(after)
        self.empty = None if empty is None else rows.of(empty)
        self._known: dict[str, list[int]] = {}

    def tell(self, said: Sequence[Sequence[Said]], rng: np.random.Generator) -> Told:
        """A batch of captions; strange words get one of the unknown rows."""
        told = [self._one(words, rng) for words in said]
        longest = max(len(rows) for rows, _ in told)

        def filled(number: int) -> Tensor:
            return torch.tensor([row[number] + [0] * (longest - len(row[0])) for row in told])

        lengths = torch.tensor([len(rows) for rows, _ in told])
        return Told(filled(0), lengths, filled(1))

    def _one(self, words: Sequence[Said], rng: np.random.Generator) -> tuple[list[int], list[int]]:
        if not words and self.empty is not None:
            return list(self.empty), [0] * len(self.empty)
        rows, codes = list(self.before), [0] * len(self.before)
        for word in words:
            own = self._rows_of(word.text, rng)
            rows += own
            codes += [word.of] * len(own)
        return rows + self.after, codes + [0] * len(self.after)

    def _rows_of(self, text: str, rng: np.random.Generator) -> list[int]:
        if text == STRANGE:
            return [len(self.rows.ids) + int(rng.integers(self.rows.unknown))]
        if text not in self._known:
            self._known[text] = self.rows.of(self._ids(text))
        return self._known[text]


def qwen_reader(family: str) -> Reader:
    """How the text encoder of a family reads."""
    rows = qwen_rows(UNKNOWN_ROWS)
    if family == "anima":
        return Reader(rows, qwen_word, empty=[QWEN_END])
    before, after = (qwen_ids(part) for part in TEMPLATE.split("{}"))
    return Reader(rows, qwen_word, before, after)


def t5_reader() -> Reader:
    """How Anima's adapter reads."""
    return Reader(t5_rows(UNKNOWN_ROWS), t5_word, after=[T5_END])
