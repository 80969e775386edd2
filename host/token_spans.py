"""Where text and picture stand in the sequence of a joint attention."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class TokenSpans:
    """One sequence [B, S, C] of text and picture.

    Attributes:
        text: tokens of the text with what fills them up.
        picture: tokens of the picture with what fills them up.
        words: how many tokens of `text` are rows of the context; the first ones.
        positions: how many tokens of `picture` are positions of the grid; the first ones.
    """

    text: slice
    picture: slice
    words: int
    positions: int

    @property
    def total(self) -> int:
        return max(self.text.stop, self.picture.stop)

    @property
    def n_text(self) -> int:
        return self.text.stop - self.text.start

    @property
    def n_picture(self) -> int:
        return self.picture.stop - self.picture.start

    def positions_of(self, tokens: Tensor) -> Tensor:
        """[B, heads, N, d] the picture's positions of q, k or v [B, heads, S, d]."""
        return tokens.narrow(2, self.picture.start, self.positions)

    def text_first(self, tokens: Tensor) -> Tensor:
        """q, k or v [B, heads, S, d] of the sequence in the order text, picture."""
        return torch.cat([tokens[:, :, self.text], self.without_text(tokens, 2)], dim=2)

    def spread(self, weights: Tensor, length: int) -> Tensor:
        """Weights [B, G, N] of the picture's positions -> [B, G, length] of tokens.

        What fills the picture gets the mean of its positions, the text and what stands behind the
        sequence 0.

        Args:
            length: how many tokens a layer sees: positions alone, the picture with what fills it,
                or the sequence and perhaps streams behind it.
        """
        if length == self.positions:
            return weights
        filling = weights.mean(dim=2, keepdim=True)
        filling = filling.expand(-1, -1, self.n_picture - self.positions)
        picture = torch.cat([weights, filling], dim=2)
        if length == self.n_picture:
            return picture
        tokens = weights.new_zeros(*weights.shape[:2], length)
        tokens[..., self.picture] = picture
        return tokens

    def without_text(self, tokens: Tensor, dim: int) -> Tensor:
        """A sequence along a dimension, of which its text is left out."""
        before = tokens.narrow(dim, 0, self.text.start)
        behind = tokens.narrow(dim, self.text.stop, self.total - self.text.stop)
        if not before.shape[dim]:
            return behind
        return torch.cat([before, behind], dim) if behind.shape[dim] else before


@dataclass(frozen=True, slots=True)
class TokenOrder:
    """How a family lays out the sequence.

    Attributes:
        text_first: text, then picture; otherwise the other way round.
        multiple: text and picture are filled up to a multiple of it.
    """

    text_first: bool = True
    multiple: int = 1

    def spans(self, words: int, positions: int) -> TokenSpans:
        """Of a context with so many rows, and a grid with so many positions."""
        n_text, n_picture = self._filled(words), self._filled(positions)
        first, second = (n_text, n_picture) if self.text_first else (n_picture, n_text)
        spans = slice(0, first), slice(first, first + second)
        text, picture = spans if self.text_first else spans[::-1]
        return TokenSpans(text, picture, words, positions)

    def _filled(self, count: int) -> int:
        return -(-count // self.multiple) * self.multiple
