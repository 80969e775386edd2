"""One sentence becomes the prompts of all regions (paper, Step 5).

    p_base  "a dog and a cat playing with a ball, mountain background"
    p_+1    "a <c1> dog playing with a ball, mountain background"
    p_+2    "a <c2> cat playing with a ball, mountain background"
    p_+bg   "a dog and a cat playing with a ball, <bg> mountain background"

The rule: whatever stands from the first subject to the last one is replaced by the region's own
subject. With one prompt for all, the looks of the subjects mix. The result is a proposal, which
nodes and command line show; every prompt can be written by hand instead.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from ...concepts.concept import Concept
from ...errors import PromptError

ARTICLES = "a|an|the|my|your|his|her|its|our|their|this|that|these|those|some|one|two|three|four"
# Words that end the search for a subject's article: "a photo of dog" is no dog with adjectives.
SMALL_WORDS = "and|or|of|with|in|on|at|by|to|near|next|behind|beside|between|above|below|under|over"
MOST_ADJECTIVES = 4
_PHRASE_START = re.compile(
    rf"\b(?:{ARTICLES})\b"
    rf"(?:[\s(]+(?!(?:{ARTICLES}|{SMALL_WORDS})\b)[\w'-]+){{0,{MOST_ADJECTIVES}}}[\s(]*$",
    re.IGNORECASE,
)
_WEIGHT_END = re.compile(r"\s*(?::[\d.]+)?\)")  # of "(red dog:1.2)"


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
        word: of the sentence, one or several words: "dog", "red mug".
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
    every = [*subjects, background] if background else list(subjects)
    places = _places(sentence, [subject.word for subject in every])
    own = places[: len(subjects)]
    phrases = [_phrase(sentence, place, own) for place in own]
    start = min((phrase.start for phrase in phrases), default=0)
    stop = max((phrase.stop for phrase in phrases), default=0)
    regions = [
        sentence[:start] + _marked(sentence, phrase, place, subject.marked) + sentence[stop:]
        for phrase, place, subject in zip(phrases, own, subjects, strict=True)
    ]
    last = sentence
    if background:
        last = _marked(sentence, range(len(sentence)), places[-1], background.marked)
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


def _places(sentence: str, words: Sequence[str]) -> list[range]:
    """Characters of each word in the sentence; the same word asked for twice is found twice."""
    places: list[range] = []
    for word in words:
        pattern = r"\s+".join(map(re.escape, word.split()))
        # Whole words, and no part of a handle such as <my-hat>.
        whole = rf"(?<![\w<'-]){pattern}(?![\w>'-])"
        matches = re.finditer(whole, sentence, re.IGNORECASE) if pattern else ()
        free = (m for m in matches if not any(m.start() in place for place in places))
        match = next(free, None)
        if match is None:
            is_repeated = sum(w.casefold() == word.casefold() for w in words) > 1
            raise PromptError(
                f"The prompt {sentence!r} does not contain {word!r}"
                + (" once more" if is_repeated else "")
                + "; add every concept's word to it, or give the region its own prompt."
            )
        places.append(range(*match.span()))
    return places


def _phrase(sentence: str, place: range, taken: Sequence[range]) -> range:
    """A word with its adjectives, article and weight: "a big (red dog:1.2)"."""
    earlier = max((other.stop for other in taken if other.stop <= place.start), default=0)
    match = _PHRASE_START.search(sentence[earlier : place.start])
    brackets = re.search(r"[\s(]*$", sentence[: place.start])
    start = earlier + match.start() if match else place.start
    if not match and brackets and "(" in brackets.group():
        start = brackets.start() + brackets.group().index("(")
    stop = place.stop
    for _ in range(sentence.count("(", start, place.start)):
        closing = _WEIGHT_END.match(sentence, stop)
        stop = closing.end() if closing else stop
    return range(start, stop)


def _marked(sentence: str, part: range, place: range, marked: str) -> str:
    """A part of the sentence with one word marked; "an owl" becomes "a <c1> owl"."""
    before = sentence[part.start : place.start]
    if marked.startswith("<"):
        before = re.sub(r"\b(a)n(?=[\s(]+$)", r"\1", before, flags=re.IGNORECASE)
    return before + marked + sentence[place.stop : part.stop]
