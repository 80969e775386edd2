"""The text of a prompt: handles (`<mug>` stands for the learned concept `mug`), and weights."""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Collection, Iterable, Iterator, Mapping

from torch import Tensor

from ..errors import HandleError

# Vowel signs of many scripts are marks and no letters to a regular expression.
_MARKS = "".join(c for c in map(chr, range(0x300, 0x10000)) if unicodedata.category(c)[0] == "M")
NAME = re.compile(rf"[\w{_MARKS}-]{{1,40}}")  # of a handle, without brackets
_OPEN, _CLOSE = "[<\uff1c]", "[>\uff1e]"  # an East Asian keyboard gives full-width brackets
HANDLE = re.compile(f"{_OPEN}({NAME.pattern}){_CLOSE}")
MARK = "embedding:"  # how ComfyUI marks a vector in a prompt
# Both forms that a user may write, so that the mark is never doubled.
MARKED = re.compile(rf"(?:{MARK})?{HANDLE.pattern}")
_BRACKETED = re.compile(rf"{_OPEN}([^<>\uff1c\uff1e\n]{{1,80}}){_CLOSE}")
_WEIGHT = re.compile(r"(.*?)\s*[:\uff1a]\s*([-+]?[\d.]+)")


def composed(name: str) -> str:
    """A name in the one spelling of its letters that counts (Unicode NFC): some keyboards and
    file systems give an accent as a character of its own.
    """
    return unicodedata.normalize("NFC", name)


def check_vectors(
    handle: str, vectors: Mapping[str, Tensor], widths: Mapping[str, int | None]
) -> None:
    """Whether a handle is a name and has vectors for the text encoders of a CLIP.

    Args:
        widths: encoder -> width of its vectors; None where nobody knows it yet.

    Raises:
        HandleError: it is no name, or lacks vectors of an encoder or has others.
    """
    if NAME.fullmatch(handle) is None or composed(handle) != handle:
        raise HandleError(
            f"{handle!r} cannot be a handle; use 1 to 40 composed letters, digits, - and _."
        )
    has = {name: one.shape[-1] for name, one in vectors.items()}
    if any(name not in has or width not in (None, has[name]) for name, width in widths.items()):
        raise HandleError(
            f"<{handle}> has vectors for {_wide(has) or 'no text encoder'}, but this CLIP needs "
            f"{_wide(widths)}; the concept was trained on another kind of base model. Load a "
            "checkpoint of its family."
        )


def _wide(widths: Mapping[str, int | None]) -> str:
    return ", ".join(f"{name} ({width} wide)" if width else name for name, width in widths.items())


def split_at_handles(text: str, known: Collection[str]) -> Iterator[tuple[str, bool]]:
    """Pieces of a prompt in order, each with whether it is the name of a known handle.

    `<name>` of an unknown handle stays part of the text around it. `embedding:<name>`, which users
    of ComfyUI may write, is the same as `<name>`.
    """
    start = 0
    for match in MARKED.finditer(text):
        if composed(match[1]) not in known:
            continue
        if text[start : match.start()].strip():
            yield text[start : match.start()], False
        yield composed(match[1]), True
        start = match.end()
    if text[start:].strip():
        yield text[start:], False


def handles_in(text: str) -> list[str]:
    """Names in angle brackets, in order of first appearance, known or not."""
    return list(dict.fromkeys(composed(match[1]) for match in HANDLE.finditer(text)))


def without_passages(text: str, passages: Iterable[str]) -> str:
    """A prompt without some of its words; longer passages go first."""
    for words in sorted(passages, key=len, reverse=True):
        spaced = r"\s+".join(map(re.escape, words.split()))
        text = re.sub(rf"(?<!\w){spaced}(?!\w)", " ", text, flags=re.IGNORECASE)
    return re.sub(r"\s+", " ", text).strip()


def misspelt(text: str, known: Collection[str]) -> list[str]:
    """A sentence for everything in brackets that looks like a handle but is unknown.

    Args:
        known: names of the handles that the prompt may hold.
    """
    words: dict[str, None] = {}
    for match in _BRACKETED.finditer(text):
        weighted = _WEIGHT.fullmatch(match[1])
        written = weighted[1] if weighted else match[1]
        name = composed(written.strip())
        is_exact = not weighted and written == written.strip()
        if not NAME.fullmatch(name) or (is_exact and name in known):
            continue
        if name in known:
            advice = (
                f"write ({_shown(name)}:{weighted[2]})" if weighted else f"write {_shown(name)}"
            )
        elif is_exact or weighted:
            advice = _nearest(name, known)
        else:
            continue  # "a < b > c" is no handle
        words[f"{match[0]} is not a learned word here and counts as plain text: {advice}."] = None
    return list(words)


def _nearest(name: str, known: Collection[str]) -> str:
    # Taken apart, so that a Korean syllable with one letter wrong is near to the right one.
    folded = {unicodedata.normalize("NFD", other.casefold()): other for other in known}
    apart = unicodedata.normalize("NFD", name.casefold())
    if close := difflib.get_close_matches(apart, folded, n=1, cutoff=0.6):
        return f"did you mean {_shown(folded[close[0]])}"
    if not known:
        return "no concept is applied to this model"
    several = ", ".join(map(_shown, list(known)[:5]))
    return f"known are {several}{', ...' if len(known) > 5 else ''}"


def _shown(name: str) -> str:
    return f"<{name}>"


def check_free(known: Mapping[str, str], added: Mapping[str, str]) -> None:
    """Check that handles can be applied in addition to earlier ones.

    Both hosts use the same rule: a handle identifies one concept. The same concept may be applied
    again; its strengths add up.

    Args:
        known, added: handle -> identity of its concept (see `concepts.concept.identities`).

    Raises:
        HandleError: a handle already identifies another concept, or differs from one only in upper
            and lower case.
    """
    spelt = {name.casefold(): name for name in known}
    for name, identity in added.items():
        other = spelt.get(name.casefold())
        if other is None or (other == name and known[other] == identity):
            continue
        taken = f"<{other}>" if other == name else f"<{other}>, which differs only in case,"
        raise HandleError(
            f"Two concepts use the handle <{name}>: {taken} already stands for another one. "
            f"Rename one of them: in ComfyUI with the input rename of Load Concept ({name}: "
            f"{name}-2), on the command line with --concept FILE:STRENGTH:NEWNAME."
        )


def unescaped(text: str) -> str:
    r"""A prompt whose `\(` and `\)` are brackets, for models that know no weights."""
    return text.replace("\\(", "(").replace("\\)", ")")


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
