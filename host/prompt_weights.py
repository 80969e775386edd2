"""Weights in a prompt, `(a cat:1.3)`, as ComfyUI reads them."""

from __future__ import annotations

EMPHASIS = 1.1  # of brackets without a number


def weighted_pieces(text: str) -> list[tuple[str, float]]:
    """Pieces of a prompt in order, each with its weight; `\\(` and `\\)` are brackets of the text.

    (piece) counts 1.1 and (piece:1.3) counts 1.3; inside of other brackets the former multiplies
    and the latter stands by itself. Brackets that nothing closes are text.
    """
    # Escaped brackets must not nest; control characters stand in for them meanwhile.
    hidden = text.replace("\\(", "\1").replace("\\)", "\2")
    parentheses = str.maketrans("\1\2", "()")
    return [(piece.translate(parentheses), weight) for piece, weight in _weighted(hidden, 1.0)]


def _weighted(text: str, weight: float) -> list[tuple[str, float]]:
    pieces: list[tuple[str, float]] = []
    for part in _top_level(text):
        if len(part) < 2 or part[0] != "(" or part[-1] != ")":
            pieces.append((part, weight))
            continue
        inner, colon, number = part[1:-1].rpartition(":")
        try:
            factor = float(number) if colon and inner else None
        except ValueError:
            factor = None  # the colon belongs to the text
        if factor is None:
            pieces += _weighted(part[1:-1], weight * EMPHASIS)
        else:
            pieces += _weighted(inner, factor)
    return pieces


def _top_level(text: str) -> list[str]:
    """The text cut before and behind its outermost brackets."""
    parts: list[str] = []
    start = depth = 0
    for place, letter in enumerate(text):
        if letter == "(":
            if depth == 0 and place > start:
                parts.append(text[start:place])
                start = place
            depth += 1
        elif letter == ")":
            depth -= 1
            if depth == 0:
                parts.append(text[start : place + 1])
                start = place + 1
    return [*parts, text[start:]] if start < len(text) else parts
