"""Objects by their names: held-out members, which a user teaches the model, and what it knows.

"mug1" to "mug4" are the held-out members of the mugs. "red mug" is some mug that training may have
shown, "red striped square" a plain shape.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np

from .items import Item, vocabulary_item
from .members import HELD_OUT, KINDS, distance, held_out, training_member
from .painters.kinds import Member
from .scenes import SIZE, Scene, Spot, scene_of
from .shapes import COLOURS, SHAPES, TEXTURES

CHOICE = 40  # known members that `alike_member` chooses from
# name of a held-out member -> its class, the plain word that comes near it
CONCEPTS = {f"{kind}{number}": kind for kind in KINDS for number in range(1, HELD_OUT + 1)}
KNOWN = (
    f"a class and a number from 1 to {HELD_OUT}, such as mug1; a class, with a colour or without, "
    f"such as red mug; or a colour and a shape, such as red striped square. Classes: "
    f"{', '.join(KINDS)}. Shapes: {', '.join(SHAPES)}"
)


def concept(name: str) -> Member:
    """A held-out member by its name: class and number, "mug1" to "mug4"."""
    if name not in CONCEPTS:
        raise KeyError(
            f"unknown concept {name!r}; use a class and 1 to {HELD_OUT}: {', '.join(KINDS)}"
        )
    return held_out(CONCEPTS[name])[int(name[-1]) - 1]


def known_member(words: str, rng: np.random.Generator) -> Member:
    """A random member that training may show, "mug" or "red mug".

    Raises:
        KeyError: the class is not known, or has no members of that colour.
    """
    *colours, kind = words.split() or [""]
    if kind not in KINDS or len(colours) > 1:
        raise KeyError(f"unknown object {words!r}; known are {KNOWN}")
    main = next(iter(KINDS[kind].colours.values()))
    if not set(colours) <= set(main):
        raise KeyError(f"no {kind} is {colours[0]}; its colours: {', '.join(dict.fromkeys(main))}")
    return training_member(kind, rng, taken=[c for c in main if colours and c != colours[0]])


def alike_member(name: str, words: str, rng: np.random.Generator) -> Member:
    """A known member of these words, of many the one most like a held-out member.

    A template of Concept Weaver takes it: the template's features keep the outline that it has
    there.
    """
    own = concept(name)
    return min((known_member(words, rng) for _ in range(CHOICE)), key=lambda m: distance(m, own))


def thing(words: str, spot: Spot, rng: np.random.Generator) -> Member | Item:
    """What a name stands for; the place matters for plain shapes, whose texture keeps its size.

    Raises:
        KeyError: nothing has this name.
    """
    if words in CONCEPTS:
        return concept(words)
    colour, *between, shape = words.split() if " " in words else ("", words)
    texture = between[0] if between else "plain"
    if colour in COLOURS and shape in SHAPES and texture in TEXTURES and len(between) < 2:
        return vocabulary_item(colour, shape, texture, spot[2], rng)
    return known_member(words, rng)


def concept_scene(
    names: Sequence[str], seed: int = 0, background: str = "white", size: int = SIZE
) -> Scene:
    """A picture of one to three named objects, with one mask per name in the same order.

    Raises:
        KeyError: nothing has one of the names.
    """
    things = [
        partial(thing, name, rng=np.random.default_rng((seed, 2, number)))
        for number, name in enumerate(names)
    ]
    return scene_of(things, seed, background, size)


def region_prompt(sentence: str, things: Sequence[str], own: str) -> str:
    """A template's sentence for one region of a weave: its own thing, "blue house", by the concept
    of its class, "<my-house> house".

    The others are named too, for TinyWorld draws as many objects as a prompt names: those that it
    left out would vanish. They lose their colours, which would come along.
    """
    for other in things:
        kind = other.rpartition(" ")[2]
        sentence = sentence.replace(other, f"<my-{kind}> {kind}" if other == own else kind)
    return sentence
