"""Prompts of Z-Image and Krea 2: a language model reads them inside of a template.

Z-Image  <|im_start|>user\n PROMPT <|im_end|>\n<|im_start|>assistant\n
Krea 2   a system prompt, then the same; the context begins with PROMPT
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ..conditioning import Token, Tokens
from ..words import Piece, pieces_of

START, END = 151644, 151645  # <|im_start|>, <|im_end|>
USER = (START, 872, 198)  # "<|im_start|>user\n"
TEMPLATE = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"
SYSTEM = (
    "<|im_start|>system\nDescribe the image by detailing the color, shape, size, texture, quantity,"
    " text, spatial relationships of the objects and background:<|im_end|>\n"
)
LEARNED = None  # in place of an id: a vector of somebody's own


def prompt_rows(ids: Sequence[int | None]) -> slice:
    """Where the prompt stands among the tokens of a template."""
    size = len(USER)
    starts = (i + size for i in range(len(ids)) if tuple(ids[i : i + size]) == USER)
    start = next(starts, 0)
    ends = [i for i in range(start, len(ids)) if ids[i] == END]
    return slice(start, ends[-1] if ends else len(ids))


def tokens_of(ids: Sequence[int | None], decode: Callable[[list[int]], str], rows: int) -> Tokens:
    """What each row of a context stands for: letters of the prompt, or a token around it.

    Args:
        ids: of the prompt in its template.
        rows: of the context; a family may leave out what stands before the prompt.
    """
    inside = prompt_rows(ids)
    around: list[Token] = [START if token is None else token for token in ids]
    around[inside] = pieces_of(ids[inside], decode)
    return tuple(around[len(around) - rows :])


def is_content(tokens: Tokens) -> tuple[bool, ...]:
    """Which rows stand for a piece of the prompt."""
    return tuple(isinstance(token, Piece) for token in tokens)
