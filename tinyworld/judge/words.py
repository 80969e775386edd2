"""What the judge can say of an object, and what is true of one that the world drew.

Each head of the describer chooses one of a list of words; `OTHER` stands for what has no name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..items import Item
from ..members import KINDS
from ..painters.kinds import EMBLEMS, PATTERNS, STYLES, UNNAMED_EMBLEMS, Member
from ..painters.marks import EMBLEM, PATTERN
from ..painters.sheet import PALETTE
from ..shapes import BACKGROUNDS, SHAPES, Array

OTHER = "other"
KIND_NAMES = (*KINDS, *SHAPES, OTHER)
COLOUR_NAMES = (*PALETTE, OTHER)
EMBLEM_NAMES = ("", *EMBLEMS, *UNNAMED_EMBLEMS)
BACKGROUND_NAMES = tuple(BACKGROUNDS)
# parts with a colour of their own that a caption may name, and the marks
PARTS = (PATTERN, EMBLEM, *sorted({part for kind in KINDS.values() for part in kind.spoken}))
LEAST_PART_PX = 10  # a part with fewer pixels of a 128 px picture is not seen
HEADS: dict[str, Sequence[str]] = {
    "kind": KIND_NAMES,
    "colour": COLOUR_NAMES,
    "pattern": PATTERNS,
    "emblem": EMBLEM_NAMES,
    "style": STYLES,
    **{f"{part} colour": tuple(PALETTE) for part in PARTS},
}
# (class, option, word): which form of its parts a member of a class has
FORMS = tuple(
    (kind.name, option, word)
    for kind in KINDS.values()
    for option, words in kind.options.items()
    for word in dict.fromkeys((*words, *filter(None, [kind.rare.get(option)])))
)


def words_of(what: Member | Item) -> dict[str, str]:
    """What is true of an object: head -> word. A head that says nothing of it is left out."""
    if isinstance(what, Item):
        named = {"kind": what.shape or OTHER, "colour": what.colour or OTHER, "emblem": ""}
        return {**named, "pattern": what.texture} if what.texture else named
    words = {"kind": what.kind, "colour": what.colour}
    words |= {"pattern": what.pattern, "emblem": what.emblem}
    if what.emblem:
        words |= {"style": what.options["style"], f"{EMBLEM} colour": what.colours["mark"]}
    if what.pattern != PATTERNS[0]:
        words[f"{PATTERN} colour"] = what.colours["second"]
    for part, slot in KINDS[what.kind].spoken.items():
        words[f"{part} colour"] = what.colours[slot]
    return words


def seen_words(what: Member | Item, parts: Mapping[str, Array]) -> dict[str, str]:
    """`words_of` without what says something of a part that the picture does not show.

    Args:
        parts: the object's part masks, [128, 128] each.
    """

    def shown(head: str) -> bool:
        part = head.removesuffix(" colour")
        return part == head or (part in parts and float(parts[part].sum()) >= LEAST_PART_PX)

    return {head: word for head, word in words_of(what).items() if shown(head)}
