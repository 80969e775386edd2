"""An encoded prompt: vectors for the network, and the positions of its words."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .words import Piece, Words

# An id, a handle's name, letters where ids tell no words; a set where text encoders read different
# prompts.
Token = int | str | Piece | Words | frozenset[int | str]
Tokens = tuple[Token, ...]  # per position: BPE id, or a handle's name for each of its vectors
HandleVectors = Mapping[str, Mapping[str, Tensor]]  # handle -> encoder ("clip_l") -> [n, width]
OwnTexts = Mapping[str, Tensor]  # what reads it -> [1, K, width] to be added to the context
_serial = itertools.count()


def find_run(tokens: Tokens, piece: Sequence[Token]) -> tuple[int, ...]:
    """Positions of all occurrences of a run of tokens, each once; empty if there is none."""
    return tuple(dict.fromkeys(row for run in find_runs(tokens, piece) for row in run))


def find_runs(tokens: Tokens, piece: Sequence[Token]) -> list[tuple[int, ...]]:
    """Positions of each occurrence of a run of tokens, in their order."""
    if len(piece) == 1 and isinstance(piece[0], Words):
        return piece[0].runs(tokens)
    size = len(piece)
    return [
        tuple(range(start, start + size))
        for start in range(len(tokens) - size + 1 if size else 0)
        if all(is_token(tokens[start + i], piece[i]) for i in range(size))
    ]


def is_token(token: Token, expected: Token) -> bool:
    """Whether a position holds a token, alone or among others."""
    return token == expected or (isinstance(token, frozenset) and expected in token)


@dataclass(frozen=True, slots=True)
class TextLayout:
    """How the text encoders of a family lay a prompt into the rows of a context.

    Attributes:
        chunk: rows of each part of a long prompt; 0 where a prompt of any length is one part.
        before: rows that every part begins with, whatever the prompt: a start token, a template.
        fillers: tokens that stand for no piece of a prompt: its end, and padding.
        padded: rows of zeros stand behind a prompt, and most of the attention rests on them. They
            have to stay; how much a position looks at a word is told among the prompt's own rows.
        by_letters: tokens tell no words, so rows keep letters, and words are looked for as such.
    """

    chunk: int = 0
    before: int = 0
    fillers: frozenset[Token] = frozenset()
    padded: bool = False
    by_letters: bool = False

    def is_before(self, rows: int, device: torch.device) -> Tensor:
        """[rows] bool: which rows of a context every prompt has."""
        places = torch.arange(rows, device=device)
        return (places % self.chunk if self.chunk else places) < self.before

    def is_content(self, tokens: Tokens) -> tuple[bool, ...]:
        """Which rows stand for a piece of the prompt, by the tokens of a layout with fillers."""
        return tuple(token not in self.fillers for token in tokens)


@dataclass(frozen=True, slots=True)
class Prompt:
    """One encoded prompt.

    Attributes:
        content: [K] True where a row stands for a piece of the prompt; False for start, end,
            padding and the like.
        own_texts: how the contexts of single regions differ from that of the whole picture.
        serial: tells encoded prompts apart, also those with the same tokens.
    """

    text: str
    context: Tensor  # [1, K, width]
    tokens: Tokens  # K entries
    pooled: Tensor | None = None  # [1, width] for models that take one (SDXL)
    own_texts: OwnTexts = field(default_factory=dict[str, Tensor])
    content: tuple[bool, ...] = ()
    serial: int = field(default_factory=_serial.__next__, init=False, compare=False)

    def find(self, piece: Sequence[Token]) -> tuple[int, ...]:
        """Positions of every occurrence of a run of tokens; empty when there is none."""
        return find_run(self.tokens, piece)

    def find_handle(self, name: str) -> tuple[int, ...]:
        """Positions of all vectors of a handle; empty when the prompt does not contain it."""
        return tuple(i for i, token in enumerate(self.tokens) if is_token(token, name))
