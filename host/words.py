"""Words in prompts whose tokens tell no words: a language model's depend on what stands around.

"teapot" and " teapot" are different tokens, a letter may be three of them. So each row of such a
prompt keeps the letters that it stands for, and words are looked for among the letters.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

UNFINISHED = "\ufffd"  # what a tokenizer gives for a piece of a letter
VECTOR = "\ufffc"  # in place of letters
_LETTER = "[^\\W_]"  # a word of these scripts does not end inside of a run of them
_SPACED = re.compile(r"[0-9A-Za-z\u00c0-\u058f]")


@dataclass(frozen=True, slots=True)
class Piece:
    """A row of a context.

    Attributes:
        start: number of its first letter in the prompt.
        letters: from there on; rows that make up one letter together each have it.
    """

    start: int
    letters: str


@dataclass(frozen=True, slots=True)
class Words:
    """Words to be looked for, as a user writes them; stands for one token in `find_run`."""

    text: str

    def runs(self, tokens: Sequence[object]) -> list[tuple[int, ...]]:
        """Rows that stand for any letter of each occurrence; letter case does not count."""
        matches = self._pattern().finditer(_text_of(tokens)) if self.text.strip() else ()
        return [
            tuple(
                row
                for row, piece in enumerate(tokens)
                if isinstance(piece, Piece)
                and piece.start < match.end()
                and piece.start + len(piece.letters) > match.start()
            )
            for match in matches
        ]

    def _pattern(self) -> re.Pattern[str]:
        words = self.text.split()
        before = rf"(?<!{_LETTER})" if _SPACED.match(words[0][0]) else ""
        behind = rf"(?!{_LETTER})" if _SPACED.match(words[-1][-1]) else ""
        return re.compile(before + r"\s+".join(map(re.escape, words)) + behind, re.IGNORECASE)


def as_in_text(word: str) -> str:
    """A word as it stands in the middle of a prompt, where its token begins with a space."""
    bare = word.strip()
    return f" {bare}" if bare and _SPACED.match(bare) else bare


def pieces_of(ids: Sequence[int | None], decode: Callable[[list[int]], str]) -> tuple[Piece, ...]:
    """What each token of a text stands for.

    Args:
        ids: None where a learned vector stands, which is no letter.
        decode: all tokens of a text from its beginning -> that text.
    """
    text, spans, run, vectors = "", list[tuple[int, int, int]](), list[int](), 0
    for token in ids:
        start = len(text.rstrip(UNFINISHED))
        if token is None:
            spans.append((start + vectors, start, start))
            vectors += 1
            continue
        run.append(token)
        text = decode(run)
        spans.append((start + vectors, start, len(text)))
    return tuple(Piece(place, text[start:end] or VECTOR) for place, start, end in spans)


def _text_of(tokens: Sequence[object]) -> str:
    """The text that rows stand for."""
    letters: list[str] = []
    for piece in tokens:
        if isinstance(piece, Piece):
            letters += " " * (piece.start + len(piece.letters) - len(letters))
            letters[piece.start : piece.start + len(piece.letters)] = piece.letters
    return "".join(letters)
