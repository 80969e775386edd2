"""What captions say about a scene: class, colour, now and then a detail. They leave things out.

Every word knows of what it speaks, so that its attention can be drawn there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from .members import CATEGORIES, KINDS
from .painters.kinds import EMBLEMS, Member
from .painters.marks import BADGE, EMBLEM
from .painters.sheet import PALETTE
from .shapes import BACKGROUNDS, COLOURS, SHAPES, TEXTURES

if TYPE_CHECKING:
    from .scenes import Placed

COLOUR_TOLD, DETAIL_TOLD, AS_CATEGORY = 0.85, 0.75, 0.07
PATTERN_NOUNS = {
    "striped": "stripes",
    "dotted": "dots",
    "checkered": "checks",
    "zigzag": "zigzags",
}
PLURAL_PARTS = ("eyes",)
OBJECT_WORDS = ("object", "thing")  # for what has no name
SMALL_WORDS = """
a an and of with photo picture image drawing left right plain the on in at next to background , .
"""
PREFIXES = (("a", "photo", "of"), ("a", "picture", "of"), ("an", "image", "of"), ())


@dataclass(frozen=True, slots=True)
class Word:
    """A word of a caption.

    Attributes:
        thing: number of the thing it speaks of; -1 for none.
        parts: names of the parts of that thing it speaks of; () for the whole thing.
    """

    text: str
    thing: int = -1
    parts: tuple[str, ...] = ()


def text_of(words: Sequence[Word]) -> str:
    """The caption as a sentence."""
    return " ".join(word.text for word in words).replace(" ,", ",")


def article(words: str) -> str:
    """The words with "a" or "an" in front."""
    return f"{_article(words)} {words}"


def _article(words: str) -> str:
    return "an" if words[0] in "aeiou" else "a"


def caption_words() -> list[str]:
    """Every word that a caption can hold."""
    parts = [part for kind in KINDS.values() for part in kind.spoken]
    phrases = " ".join(BACKGROUNDS.values()).split()
    return sorted(
        {
            *SMALL_WORDS.split(),
            *OBJECT_WORDS,
            *KINDS,
            *CATEGORIES,
            *COLOURS,
            *PALETTE,
            *SHAPES,
            *TEXTURES,
            *PATTERN_NOUNS,
            *PATTERN_NOUNS.values(),
            *EMBLEMS,
            *parts,
            *phrases,
        }
    )


def caption_of(
    things: Sequence[Placed], background: str, rng: np.random.Generator
) -> tuple[Word, ...]:
    """A sentence about the scene."""
    prefix = PREFIXES[int(rng.choice(4, p=[0.7, 0.1, 0.1, 0.1]))]
    start = [Word(text) for text in prefix]
    place = [Word(text) for text in BACKGROUNDS[background].split()]
    if not things:
        return tuple(start + place[1:])
    said = [_phrase(thing, number, rng) for number, thing in enumerate(things)]
    said = [
        phrase + [Word(text) for text in side]
        for phrase, side in zip(said, _sides(things, rng), strict=True)
    ]
    body = list(said[0])
    for number, phrase in enumerate(said[1:], 1):
        body += [Word("and" if number == len(said) - 1 else ","), *phrase]
    return tuple(start + body + (place if rng.random() < 0.93 else []))


def _sides(things: Sequence[Placed], rng: np.random.Generator) -> list[tuple[str, ...]]:
    if len(things) == 2 and abs(things[0].x - things[1].x) > 0.3 and rng.random() < 0.3:
        sides = ["left" if things[i].x < things[1 - i].x else "right" for i in (0, 1)]
        return [("on", "the", side) for side in sides]
    if len(things) == 1 and abs(things[0].x - 0.5) > 0.13 and rng.random() < 0.25:
        return [("on", "the", "left" if things[0].x < 0.5 else "right")]
    return [()] * len(things)


def _phrase(thing: Placed, number: int, rng: np.random.Generator) -> list[Word]:
    """Article, attributes, noun and what it has, of one thing."""
    if isinstance(thing.what, Member):
        nouns, detail = _member_words(thing.what, number, rng)
    else:
        nouns, detail = _item_words(thing, rng), []
    return [Word(_article(nouns[0])), *(Word(text, number) for text in nouns), *detail]


def _item_words(thing: Placed, rng: np.random.Generator) -> list[str]:
    item = thing.what
    assert not isinstance(item, Member)
    if item.shape is None:
        return [str(rng.choice(OBJECT_WORDS))]
    words = [item.shape]
    if item.texture == "plain":
        words = ["plain", *words] if rng.random() < 0.05 else words
    elif rng.random() < 0.93:
        words = [str(item.texture), *words]
    return [str(item.colour), *words] if rng.random() < 0.95 else words


def _member_words(
    one: Member, number: int, rng: np.random.Generator
) -> tuple[list[str], list[Word]]:
    kind = KINDS[one.kind]
    nouns = [kind.category if rng.random() < AS_CATEGORY else kind.name]
    detail: list[Word] = []
    names_detail, adjective = rng.random() < DETAIL_TOLD, rng.random() < 0.5
    if one.emblem in EMBLEMS and names_detail:
        tint = [one.colours["mark"]] if rng.random() < 0.35 else []
        detail = _having(["a", *tint, one.emblem], number, (EMBLEM, BADGE))
    elif one.pattern != "plain" and names_detail:
        if adjective:
            nouns = [one.pattern, *nouns]
        else:
            tint = [one.colours["second"]] if rng.random() < 0.4 else []
            detail = _having([*tint, PATTERN_NOUNS[one.pattern]], number, ("pattern",))
    elif kind.spoken and rng.random() < 0.45:
        parts = list(kind.spoken)
        part = parts[rng.integers(len(parts))]
        tint = one.colours[kind.spoken[part]]
        before = [] if part in PLURAL_PARTS else [_article(tint)]
        detail = _having([*before, tint, part], number, (part,))
    if rng.random() < COLOUR_TOLD:
        nouns = [one.colour, *nouns]
    return nouns, detail


def _having(texts: list[str], number: int, parts: tuple[str, ...]) -> list[Word]:
    spoken = [Word(t) if t in ("a", "an") else Word(t, number, parts) for t in texts]
    return [Word("with"), *spoken]
