"""One sentence becomes the prompts of all regions (paper, Step 5).

    p_base  "a dog and a cat playing with a ball, mountain background"
    p_+1    "a <c1> dog playing with a ball, mountain background"
    p_+2    "a <c2> cat playing with a ball, mountain background"
    p_+bg   "a dog and a cat playing with a ball, <bg> mountain background"

A region's prompt names its own concept and drops the other subjects: with one prompt for all, their
looks mix. What comes out is a proposal; every prompt can be given by hand instead.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from ...concepts.concept import Concept
from ...errors import PromptError
from ...host.prompt_text import NAME

_TOKEN = re.compile(rf"<{NAME.pattern}>" + r"|\d+\.\d+|[\w'-]+|[^\w\s]")
DETERMINERS = frozenset(
    ["a", "an", "the", "my", "your", "his", "her", "its", "our", "their", "this", "that", "these"]
) | frozenset(["those", "some", "another", "one", "two", "three", "four", "five", "six", "many"])
JOINING = frozenset(("and", "or", ",", "&"))
PLACING = frozenset(
    ["with", "beside", "near", "behind", "above", "below", "under", "over", "by", "next", "to"]
) | frozenset(["in", "on", "at", "of", "between", "chasing"])
CLOSING = frozenset(",.;:!?)")
MOST_ADJECTIVES = 4


@dataclass(frozen=True, slots=True)
class WeavePrompts:
    """The prompts of one weave."""

    base: str
    regions: tuple[str, ...]
    background: str


@dataclass(frozen=True, slots=True)
class Subject:
    """What stands in the sentence for a concept.

    Attributes:
        word: of the sentence, one or several words: "dog", "red circle".
        marked: what replaces it in the concept's own prompt: "<c1> dog", or "<c1>".
    """

    word: str
    marked: str


def weave_prompts(
    sentence: str, subjects: Sequence[Subject], background: Subject | None = None
) -> WeavePrompts:
    """The prompts that a sentence and its subjects make.

    Raises:
        PromptError: the sentence does not contain a word, or not as often as it is asked for.
    """
    found = list(_TOKEN.finditer(sentence))
    tokens = [token.group() for token in found]
    gaps = [sentence[a.end() : b.start()] for a, b in itertools.pairwise(found)]
    every = [*subjects, background] if background else list(subjects)
    places = _places(sentence, tokens, [subject.word for subject in every])
    spans = [_phrase(tokens, place) for place in places]
    regions: list[str] = []
    for i, subject in enumerate(subjects):
        others = [span for j, span in enumerate(spans[: len(subjects)]) if j != i]
        regions.append(_written(tokens, gaps, places[i], subject.marked, others, spans[i].start))
    last = sentence
    if background:
        last = _written(tokens, gaps, places[-1], background.marked, ())
    return WeavePrompts(sentence, tuple(regions), last)


def marked_word(concept: Concept | None, handle: str, word: str) -> str:
    """How a concept's own prompt calls it: "<c1> dog" where it was trained so, else "<c1>".

    Of a longer word, as "brown dog", what the concept brings itself is left out.
    """
    if concept is None or not handle:
        return word
    parts = word.split()
    endings = [" ".join(parts[i:]) for i in range(len(parts))]
    for taught in filter(None, [*endings, concept.words.get(handle, "").strip()]):
        trained = re.compile(rf"<{re.escape(handle)}>\s+{re.escape(taught)}\b", re.IGNORECASE)
        if any(map(trained.search, concept.prompts)):
            return f"<{handle}> {taught}"
    return f"<{handle}>"


def _places(sentence: str, tokens: Sequence[str], words: Sequence[str]) -> list[range]:
    """Where each word stands; the same word asked for twice is found twice."""
    lower, taken, found = [token.casefold() for token in tokens], set[int](), list[range]()
    for word in words:
        wanted = [token.casefold() for token in _TOKEN.findall(word)]
        starts = range(len(lower) - len(wanted) + 1) if wanted else ()
        spans = (range(start, start + len(wanted)) for start in starts)
        place = next(
            (
                span
                for span in spans
                if lower[span.start : span.stop] == wanted and not taken.intersection(span)
            ),
            None,
        )
        if place is None:
            raise PromptError(
                f"The prompt {sentence!r} does not contain {word!r}"
                + (" once more" if any(w.casefold() == word.casefold() for w in words) else "")
                + "; add every concept's word to it, or give the region its own prompt."
            )
        taken.update(place)
        found.append(place)
    return found


def _phrase(tokens: Sequence[str], place: range) -> range:
    """The word with its adjectives and its article, where it has one, and with a weight's brackets:
    "a big (red dog:1.2)"."""
    place = _bracketed(tokens, place)
    for start in range(place.start - 1, max(-1, place.start - 2 - MOST_ADJECTIVES), -1):
        token = tokens[start].casefold()
        if token in DETERMINERS:
            return range(start, place.stop)
        if token in JOINING or token in PLACING or not token[0].isalnum():
            break
    return place


def _bracketed(tokens: Sequence[str], place: range) -> range:
    """The word with the brackets around it, if these hold nothing but its own phrase."""
    start, stop = place.start - 1, place.stop
    while start >= 0 and tokens[start][0].isalnum() and tokens[start] not in JOINING | PLACING:
        start -= 1
    if tokens[stop : stop + 1] == [":"]:
        stop += 2
    if start < 0 or tokens[start] != "(" or tokens[stop : stop + 1] != [")"]:
        return place
    return _bracketed(tokens, range(start, stop + 1))


def _written(
    tokens: Sequence[str],
    gaps: Sequence[str],
    place: range,
    marked: str,
    others: Sequence[range],
    own: int = 0,
) -> str:
    """The sentence with one word marked and other phrases dropped, else letter by letter.

    Args:
        gaps: what stands between the tokens.
        own: where the phrase of the marked word begins.
    """
    kept: list[str | None] = list(tokens)
    for span in others:
        _drop(kept, span, {own, *(other.start for other in others)})
    kept[place.start] = marked
    for i in place[1:]:
        kept[i] = None
    before = place.start - 1
    while before >= 0 and kept[before] == "(":
        before -= 1
    if before >= 0 and (kept[before] or "").casefold() in ("a", "an"):
        kept[before] = _article(str(kept[before]), marked)
    left = [i for i, token in enumerate(kept) if token is not None]
    text = str(kept[left[0]])
    for i, following in itertools.pairwise(left):
        end = place[-1] if i == place.start else i
        is_whole = following == end + 1
        space = gaps[end] if is_whole else "" if tokens[following] in CLOSING else " "
        text += space + str(kept[following])
    return text.strip(" ,")


def _drop(kept: list[str | None], span: range, phrases: Collection[int]) -> None:
    """Drop a phrase and what tied it to the phrase before it, or else to the one after it.

    Args:
        phrases: where phrases of subjects begin; a comma before anything else stays.
    """
    for i in span:
        kept[i] = None
    tying = _run(kept, span.start - 1, -1)
    if not tying and (after := _run(kept, span.stop, 1)):
        ties = any(i in phrases for i in range(span.stop, after[-1] + 2))
        tying = [i for i in after if ties or kept[i] != ","]
    for i in tying:
        kept[i] = None


def _run(kept: Sequence[str | None], start: int, step: int) -> list[int]:
    """Places of the joining words from a place on, over what was dropped already.

    To the left a preposition counts only where a phrase stands before it: "a dog beside [a cat]",
    but not "a photo of [a dog]".
    """
    found: list[int] = []
    i = start
    while 0 <= i < len(kept):
        token = kept[i]
        if token is not None and token.casefold() not in JOINING | PLACING - {"of"}:
            break
        if token is not None:
            found.append(i)
        i += step
    return found if 0 <= i < len(kept) else []


def _article(article: str, marked: str) -> str:
    bare = marked.lstrip("<")
    right = "an" if bare[:1].lower() in "aeiou" and not marked.startswith("<") else "a"
    return right.capitalize() if article[0].isupper() else right
