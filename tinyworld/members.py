"""Members of the world's classes: drawn by seed, compared, held out, and their distractors.

A concept that a user teaches is one held-out member: `held_out("mug")[0]`. Training never shows
one: it draws its members from `training_member`, which turns away what shares the look of a
held-out member, whatever its seed.
"""

from __future__ import annotations

import zlib
from collections.abc import Collection
from functools import cache

import numpy as np

from .painters.animals import ANIMALS
from .painters.buildings import BUILDINGS
from .painters.containers import CONTAINERS
from .painters.kinds import COMMON_NUMBERS, EMBLEMS, PATTERNS, STYLES, Kind, Member
from .painters.plants import PLANTS
from .painters.toys import TOYS
from .painters.vehicles import VEHICLES

KINDS: dict[str, Kind] = {
    kind.name: kind for kind in (*CONTAINERS, *ANIMALS, *BUILDINGS, *PLANTS, *TOYS, *VEHICLES)
}
CATEGORIES: dict[str, tuple[str, ...]] = {
    category: tuple(k.name for k in KINDS.values() if k.category == category)
    for category in ("container", "animal", "building", "plant", "toy")
}
HELD_OUT = 4  # members of each class that training never shows
_HELD_OUT_SEED = 20261130
RARE = 0.04  # share of members with the rare word of an option
PATTERNED = 0.5  # share of members with a pattern
EMBLEM_ON_PLAIN, EMBLEM_ON_PATTERN = 0.5, 0.06
LEAST_DISTANCE = 0.2  # of a training member from every held-out one


def member(kind: str, seed: int) -> Member:
    """The member of a class that a seed stands for."""
    return _drawn(kind, seed, np.random.default_rng((seed, zlib.crc32(kind.encode()))))


def _drawn(name: str, seed: int, rng: np.random.Generator) -> Member:
    kind = KINDS[name]
    numbers = {
        key: float(rng.uniform(low, high))
        for key, (low, high) in {**kind.numbers, **COMMON_NUMBERS}.items()
    }
    options = {key: words[rng.integers(len(words))] for key, words in kind.options.items()}
    for key, word in kind.rare.items():
        if rng.random() < RARE:
            options[key] = word
    patterned = rng.random() < PATTERNED
    options["pattern"] = PATTERNS[rng.integers(1, len(PATTERNS))] if patterned else PATTERNS[0]
    bears = rng.random() < (EMBLEM_ON_PATTERN if patterned else EMBLEM_ON_PLAIN)
    options["emblem"] = EMBLEMS[rng.integers(len(EMBLEMS))] if bears else ""
    options["style"] = STYLES[rng.choice(3, p=[0.5, 0.25, 0.25])] if bears else STYLES[0]
    return Member(
        kind=name, seed=seed, numbers=numbers, options=options, colours=_colours(kind, rng)
    )


def _colours(kind: Kind, rng: np.random.Generator) -> dict[str, str]:
    """Words for every slot; neighbours on the object differ."""
    chosen: dict[str, str] = {}
    main = next(iter(kind.colours))
    for slot, words in kind.colours.items():
        taken = {chosen.get(main)}
        if slot == "second":
            taken.add(chosen[kind.ground or main])
        if slot == "mark":
            taken = {chosen[kind.ground or main], chosen["second"], chosen.get("panel")}
        left = [word for word in words if word not in taken]
        chosen[slot] = left[rng.integers(len(left))]
    return chosen


def ground_colour(one: Member) -> str:
    """Colour of the surface that bears pattern and emblem."""
    slot = KINDS[one.kind].ground
    return one.colours[slot] if slot else one.colour


def look(one: Member) -> tuple[str, ...]:
    """What is seen first of a member: main colour, surface, pattern, emblem and their colours."""
    styled = one.emblem and one.options["style"] != "flat"
    return (
        one.kind,
        one.colour,
        ground_colour(one),
        one.pattern,
        one.emblem,
        one.options["style"] if one.emblem else "",
        one.colours["second"] if styled or one.pattern != "plain" else "",
        one.colours["mark"] if one.emblem else "",
    )


def distance(a: Member, b: Member) -> float:
    """Mean difference over all parameters of a class, 0..1; 1 between classes.

    Numbers differ by their share of the range, words by 0 or 1.
    """
    if a.kind != b.kind:
        return 1.0
    ranges = {**KINDS[a.kind].numbers, **COMMON_NUMBERS}
    parts = [abs(a.numbers[k] - b.numbers[k]) / (high - low) for k, (low, high) in ranges.items()]
    parts += [float(a.options[k] != b.options[k]) for k in a.options]
    parts += [float(a.colours[k] != b.colours[k]) for k in a.colours]
    return float(np.mean(parts))


@cache
def held_out(kind: str) -> tuple[Member, ...]:
    """The members of a class that training keeps away from.

    Their colours differ. The third has a pattern and an emblem, the fourth a rare part or, where
    its class has none, both again.
    """
    members: list[Member] = []
    seed = _HELD_OUT_SEED
    while len(members) < HELD_OUT:
        seed += 1
        one = member(kind, seed)
        rare = any(one.options[k] == word for k, word in KINDS[kind].rare.items())
        crowded = one.pattern != "plain" and one.emblem != ""
        bare = one.pattern == "plain" and one.emblem == ""
        counts = (
            not (rare or crowded or bare),
            not (rare or crowded or bare),
            crowded,
            (rare or (crowded and not KINDS[kind].rare)) and not bare,
        )[len(members)]
        if counts and all(one.colour != other.colour for other in members):
            members.append(one)
    return tuple(members)


def is_kept_away(one: Member) -> bool:
    """Whether a member is too near a held-out one to be shown in training."""
    return any(
        look(one) == look(other) or distance(one, other) < LEAST_DISTANCE
        for other in held_out(one.kind)
    )


def training_member(kind: str, rng: np.random.Generator, taken: Collection[str] = ()) -> Member:
    """A random member that training may show, its main colour none of `taken`."""
    while True:
        one = member(kind, int(rng.integers(2**31)))
        if one.colour not in taken and not is_kept_away(one):
            return one


def near_distractor(one: Member, rng: np.random.Generator, changes: int = 2) -> Member:
    """A member of the same class that differs in one or two things that are seen at once."""
    kind = KINDS[one.kind]
    while True:
        other = member(one.kind, int(rng.integers(2**31)))
        slots = [s for s in one.colours if s not in ("second", "mark")]
        steps = [
            {"colours": {s: other.colours[s]}} for s in (slots[0], slots[rng.integers(len(slots))])
        ]
        marks = {k: other.options[k] for k in ("pattern", "emblem", "style")}
        option = list(kind.options)[rng.integers(len(kind.options))]
        steps += [{"options": marks}, {"options": {option: other.options[option]}}]
        made = one
        for step in rng.permutation(len(steps))[:changes]:
            made = made.changed(**steps[step])
        if look(made) != look(one) and _contrasts(made):
            return made


def far_distractor(one: Member, rng: np.random.Generator) -> Member:
    """A member of the same class in another colour, with another pattern or emblem."""
    while True:
        other = member(one.kind, int(rng.integers(2**31)))
        marks = (other.pattern, other.emblem) != (one.pattern, one.emblem)
        if marks and other.colour != one.colour and distance(one, other) > 2 * LEAST_DISTANCE:
            return other


def _contrasts(one: Member) -> bool:
    ground, second, mark = ground_colour(one), one.colours["second"], one.colours["mark"]
    others = (ground, second, one.colours.get("panel"))
    return second not in (one.colour, ground) and mark not in others
