"""Scenes and captions to train TinyWorld's prior on: mostly one member, named by less or by more.

The diffusion model's captions name a class by its category now and then only. Here it happens
often: that makes "animal" the word of which fish, cats and birds are members.
"""

from __future__ import annotations

import numpy as np

from ..captions import PREFIXES, Word, article
from ..members import CATEGORIES, KINDS, training_member
from ..painters.kinds import EMBLEMS, MAIN, PATTERNS, Member
from ..scenes import Scene, place, posed, random_scene, render
from ..shapes import BACKGROUNDS

ALONE = 0.8  # share of scenes with a single member; the others are the diffusion model's own
AS_CATEGORY = 0.3  # how often a member is called by its category
COLOUR_NAMED, PATTERN_NAMED, EMBLEM_NAMED, BACKGROUND_NAMED = 0.6, 0.75, 0.6, 0.6

# group -> the words that a picture of one member is told apart by
LABELS: dict[str, tuple[str, ...]] = {
    "colour": tuple(f"{colour} object" for colour in MAIN),
    "class": tuple(KINDS),
    "category": tuple(CATEGORIES),
    "pattern": tuple(f"{pattern} object" for pattern in PATTERNS),
    "emblem": tuple(f"object with a {emblem}" for emblem in EMBLEMS),
}


def prior_scene(rng: np.random.Generator, size: int) -> Scene:
    """One training sample: a picture of `size` px and a caption."""
    if rng.random() >= ALONE:
        return random_scene(rng, size)
    (spot,) = place(1, rng)
    one = training_member(str(rng.choice(list(KINDS))), rng)
    background = str(rng.choice(list(BACKGROUNDS)))
    words = [*PREFIXES[rng.integers(len(PREFIXES))], *article(_named(one, rng)).split()]
    if rng.random() < BACKGROUND_NAMED:
        words += BACKGROUNDS[background].split()
    caption = tuple(Word(word) for word in words)
    return render([posed(one, spot, rng)], background, rng, size, caption)


def labels_of(scene: Scene) -> dict[str, str]:
    """Group -> its word, for a picture of one member; empty for any other picture.

    A group is left out where none of its words is true, as a mug's emblem where it has none.
    """
    one = scene.things[0].member if len(scene.things) == 1 else None
    if one is None:
        return {}
    found = {
        "colour": f"{one.colour} object",
        "class": one.kind,
        "category": KINDS[one.kind].category,
        "pattern": f"{one.pattern} object",
        "emblem": f"object with a {one.emblem}",
    }
    return {group: word for group, word in found.items() if word in LABELS[group]}


def _named(one: Member, rng: np.random.Generator) -> str:
    """A noun phrase: "green striped mug", "animal with a star"."""
    words = [KINDS[one.kind].category if rng.random() < AS_CATEGORY else one.kind]
    if one.pattern != "plain" and rng.random() < PATTERN_NAMED:
        words = [one.pattern, *words]
    if rng.random() < COLOUR_NAMED:
        words = [one.colour, *words]
    if one.emblem in EMBLEMS and rng.random() < EMBLEM_NAMED:
        words += ["with", "a", one.emblem]
    return " ".join(words)
