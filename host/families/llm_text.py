"""Prompts of Z-Image and Krea 2: a language model reads them inside of a template.

Z-Image  <|im_start|>user\n PROMPT <|im_end|>\n<|im_start|>assistant\n
Krea 2   a system prompt, then the same; the context begins with PROMPT
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ..conditioning import HandleVectors, Token, Tokens
from ..prompt_text import split_at_handles
from ..words import Piece, pieces_of
from .anima_text import Row, vectors_of

START, END = 151644, 151645  # <|im_start|>, <|im_end|>
START_OF_TURN = "<|im_start|>"
USER = (START, 872, 198)  # "<|im_start|>user\n"
TEMPLATE = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"
SYSTEM = (
    "<|im_start|>system\nDescribe the image by detailing the color, shape, size, texture, quantity,"
    " text, spatial relationships of the objects and background:<|im_end|>\n"
)
LEARNED = None  # in place of an id: a vector of somebody's own


def rows_of(
    text: str, handles: HandleVectors, encoder: str, ids: Callable[[str], Sequence[Row]]
) -> tuple[Row, ...]:
    r"""Tokens of a text in its template; a handle has one for each of its vectors.

    Args:
        ids: a text -> its ids, without anything around them. Both hosts read it as ComfyUI's own
            text node does: `\(` is a bracket, and weights are text.
    """
    pieces, rows = list(split_at_handles(text, handles)), list[Row]()
    for number, (piece, is_handle) in enumerate(pieces):
        if is_handle:
            count = len(vectors_of(handles, piece, encoder))
            rows += [(piece, i) for i in range(count)]
            continue
        is_before_handle = number + 1 < len(pieces) and pieces[number + 1][1]
        # A word's token begins with the space before it; lines end in the template alone.
        rows += ids(piece.rstrip(" ") if is_before_handle else piece)
    return tuple(rows)


def ids_in(rows: Sequence[Row]) -> list[int | str]:
    """Ids, and names of handles."""
    return [row if isinstance(row, int) else row[0] for row in rows]


def prompt_rows(ids: Sequence[int | str | None]) -> slice:
    """Where the prompt stands among the tokens of a template."""
    size = len(USER)
    starts = (i + size for i in range(len(ids)) if tuple(ids[i : i + size]) == USER)
    start = next(starts, 0)
    ends = [i for i in range(start, len(ids)) if ids[i] == END]
    return slice(start, ends[-1] if ends else len(ids))


def tokens_of(
    ids: Sequence[int | str | None], decode: Callable[[list[int]], str], rows: int
) -> Tokens:
    """What each row of a context stands for: letters of the prompt, a handle, or a token around it.

    Args:
        ids: of the prompt in its template; names of handles where their vectors stand.
        rows: of the context; a family may leave out what stands before the prompt.
    """
    inside = prompt_rows(ids)
    around: list[Token] = [START if token is None else token for token in ids]
    plain = [token if isinstance(token, int) else LEARNED for token in ids[inside]]
    pieces = pieces_of(plain, decode)
    around[inside] = [
        token if isinstance(token, str) else piece
        for token, piece in zip(ids[inside], pieces, strict=True)
    ]
    return tuple(around[len(around) - rows :])


def is_content(tokens: Tokens) -> tuple[bool, ...]:
    """Which rows stand for a piece of the prompt."""
    return tuple(isinstance(token, Piece | str) for token in tokens)
