"""Scenes of the world: members, plain shapes and nameless things on a background.

Places are unit coordinates (0..1, x right, y down); pictures are uint8 [S, S, 3] and masks float32,
0..1. The same generator makes the same scene.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from .captions import Word, caption_of, text_of
from .items import Item, nameless_item, vocabulary_item
from .members import KINDS, training_member
from .painters.kinds import Member
from .painters.marks import BADGE, EMBLEM
from .painters.sheet import Sheet
from .scenery import scenery
from .shapes import BACKGROUNDS, COLOURS, SHAPES, TEXTURES, Array

SIZE = 128  # px
SUPERSAMPLE = 2
REACH = 1.08  # of what a painter may draw, radii
OUTLINE_WIDTH = 0.011  # picture units
GAP = 0.015  # least space between two things, picture units
RADII = {1: (0.24, 0.42), 2: (0.185, 0.245), 3: (0.14, 0.17)}  # picture units, by count
COUNTS = (0.03, 0.47, 0.44, 0.06)  # share of scenes with 0, 1, 2, 3 things
NAMELESS, PLAIN_SHAPE = 0.06, 0.12  # share of things that belong to no class
ITEMS = max(RADII)
SURFACE = "surface"  # beside the names of parts: the part that bears the emblem, with all marks

Spot = tuple[float, float, float]  # x, y, radius


@dataclass(frozen=True, kw_only=True)
class Placed:
    """A member of a class, or an `Item` that belongs to none, in its place and pose."""

    what: Member | Item
    x: float
    y: float
    radius: float
    angle: float = 0.0  # radians
    mirrored: bool = False

    @property
    def member(self) -> Member | None:
        return self.what if isinstance(self.what, Member) else None


@dataclass(frozen=True, kw_only=True)
class Scene:
    """A picture and the truth about it.

    Attributes:
        image:      [S, S, 3]
        masks:      [N, S, S]  the visible part of each thing.
        parts:      for each thing, name of a part -> [S, S]; empty for what has no parts.
                    "pattern", "emblem" and "badge" (the disc below an emblem) count as parts,
                    "surface" is the part that bears the emblem with all marks on it.
        words:      the caption's words, and of what each of them speaks.
    """

    image: NDArray[np.uint8]
    masks: Array
    parts: tuple[Mapping[str, Array], ...]
    words: tuple[Word, ...]
    things: tuple[Placed, ...]
    background: str
    light: tuple[float, float] = field(default=(-0.7, -0.7))

    @property
    def caption(self) -> str:
        return text_of(self.words)

    def surface(self, thing: int) -> Array:
        """Where the part that bears the emblem is, all marks on it included; [S, S]."""
        one = self.things[thing].member
        if one is None:
            return self.masks[thing]
        return self.parts[thing][SURFACE]

    def emblem(self, thing: int) -> Array:
        """Where the emblem and the disc below it are; [S, S], empty where there is none."""
        emblems = [self.parts[thing][n] for n in (EMBLEM, BADGE) if n in self.parts[thing]]
        return np.sum([np.zeros_like(self.masks[thing]), *emblems], axis=0, dtype=np.float32)


def render(
    things: Sequence[Placed],
    background: str,
    rng: np.random.Generator,
    size: int = SIZE,
    words: tuple[Word, ...] = (),
) -> Scene:
    """Draw things over a background, later ones on top."""
    canvas = scenery(background, size, rng)
    light = random_light(rng)
    masks = np.zeros((len(things), size, size), np.float32)
    parts: list[dict[str, Array]] = []
    for i, thing in enumerate(things):
        window, colour, covers = draw_thing(thing, light, size)
        cover = covers.pop("")
        canvas[window] = canvas[window] * (1 - cover[..., None]) + colour
        for below in (masks[:i], *(list(p.values()) for p in parts)):
            for mask in below:
                mask[window] *= 1 - cover
        masks[i][window] = cover
        parts.append({name: _placed(c, window, size) for name, c in covers.items()})
    image = np.clip(canvas + 0.5, 0, 255).astype(np.uint8)
    return Scene(
        image=image,
        masks=masks,
        parts=tuple(parts),
        words=words,
        things=tuple(things),
        background=background,
        light=light,
    )


def random_light(rng: np.random.Generator) -> tuple[float, float]:
    """Where light comes from: above."""
    angle = rng.uniform(-2.6, -0.5)
    return float(np.cos(angle)), float(np.sin(angle))


Window = tuple[slice, slice]


def draw_thing(
    thing: Placed, light: tuple[float, float], size: int
) -> tuple[Window, Array, dict[str, Array]]:
    """Where a thing is drawn, its colours times its cover, and the cover of it ("") and parts."""
    r, s = thing.radius, SUPERSAMPLE
    span = [
        (max(0, int((at - REACH * r) * size)), min(size, int((at + REACH * r) * size) + 1))
        for at in (thing.y, thing.x)
    ]
    rows, cols = (
        (np.arange(lo * s, hi * s, dtype=np.float32) + 0.5) / np.float32(size * s)
        for lo, hi in span
    )
    dx = np.broadcast_to((cols - thing.x)[None, :] / np.float32(r), (len(rows), len(cols)))
    dy = np.broadcast_to((rows - thing.y)[:, None] / np.float32(r), (len(rows), len(cols)))
    cos, sin = np.float32(np.cos(thing.angle)), np.float32(np.sin(thing.angle))
    u, v = cos * dx + sin * dy, cos * dy - sin * dx
    if thing.mirrored:
        u = -u
    shine = np.float32(0.9) + np.float32(0.1) * (dx * light[0] + dy * light[1])
    if isinstance(thing.what, Member):
        sheet = Sheet(u, v, OUTLINE_WIDTH / r, thing.what.numbers["tone"])
        KINDS[thing.what.kind].paint(sheet, thing.what)
        where, colour = sheet.cover(), sheet.paint(shine)
        fine = {name: sheet.cover(name) for name in dict.fromkeys(sheet.parts[1:])}
        fine[SURFACE] = sheet.surface(KINDS[thing.what.kind].surface)
    else:
        where, colour = thing.what.paint(u, v)
        colour = colour * (shine + 0.1)[..., None]
        fine = {}
    covers = {name: _shrink(mask.astype(np.float32)) for name, mask in {"": where, **fine}.items()}
    window = (slice(*span[0]), slice(*span[1]))
    colour = np.minimum(colour, np.float32(255)) * where[..., None]
    return window, _shrink(colour), covers


def _shrink(fine: Array) -> Array:
    """Means of squares of SUPERSAMPLE pixels."""
    total = fine[0::2, 0::2] + fine[1::2, 0::2] + fine[0::2, 1::2] + fine[1::2, 1::2]
    return total * np.float32(0.25)


def _placed(cover: Array, window: Window, size: int) -> Array:
    whole = np.zeros((size, size), np.float32)
    whole[window] = cover
    return whole


def place(count: int, rng: np.random.Generator) -> list[Spot]:
    """Random places of things that lie inside the picture and do not touch."""
    low, high = RADII[count]
    while True:
        radii = rng.uniform(low, high, count)
        spots = [(*rng.uniform(r + 0.005, 0.995 - r, 2), r) for r in radii]
        pairs = [(a, b) for i, a in enumerate(spots) for b in spots[:i]]
        if all(np.hypot(a[0] - b[0], a[1] - b[1]) > a[2] + b[2] + GAP for a, b in pairs):
            return [(float(x), float(y), float(r)) for x, y, r in spots]


def posed(what: Member | Item, spot: Spot, rng: np.random.Generator) -> Placed:
    """A thing in its place, tilted a little, and mirrored in half of the cases."""
    x, y, radius = spot
    if isinstance(what, Item):
        return Placed(what=what, x=x, y=y, radius=radius, angle=what.angle)
    angle, mirrored = float(rng.uniform(-0.18, 0.18)), bool(rng.random() < 0.5)
    return Placed(what=what, x=x, y=y, radius=radius, angle=angle, mirrored=mirrored)


def random_scene(rng: np.random.Generator, size: int = SIZE) -> Scene:
    """One training sample: up to three things; no held-out member is among them."""
    count = int(rng.choice(len(COUNTS), p=COUNTS))
    things: list[Placed] = []
    for spot in place(count, rng) if count else []:
        taken = {thing.what.colour for thing in things if thing.what.colour}
        things.append(posed(_anything(spot, rng, taken), spot, rng))
    background = str(rng.choice(list(BACKGROUNDS)))
    words = caption_of(things, background, rng)
    return render(things, background, rng, size, words)


def _anything(spot: Spot, rng: np.random.Generator, taken: set[str]) -> Member | Item:
    dice = rng.random()
    if dice < NAMELESS:
        return nameless_item(spot[2], rng)
    if dice < NAMELESS + PLAIN_SHAPE:
        colour = str(rng.choice([c for c in COLOURS if c not in taken]))
        texture = str(rng.choice(TEXTURES, p=[0.55, 0.15, 0.15, 0.15]))
        return vocabulary_item(colour, str(rng.choice(list(SHAPES))), texture, spot[2], rng)
    return training_member(str(rng.choice(list(KINDS))), rng, taken)


def member_scene(
    members: Sequence[Member], seed: int = 0, background: str = "white", size: int = SIZE
) -> Scene:
    """A picture of one to three given members, one mask for each in the same order.

    The seed decides places, poses and the background's details, whatever the members are.
    """
    return scene_of([lambda _, one=one: one for one in members], seed, background, size)


def scene_of(
    things: Sequence[Callable[[Spot], Member | Item]], seed: int, background: str, size: int
) -> Scene:
    """The same of anything that can be made for a place."""
    rng = np.random.default_rng(seed)
    placed = [
        posed(thing(spot), spot, rng)
        for thing, spot in zip(things, place(len(things), rng), strict=True)
    ]
    words = caption_of(placed, background, np.random.default_rng((seed, 1)))
    return render(placed, background, rng, size, words)
