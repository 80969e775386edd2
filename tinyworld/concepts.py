"""Objects outside the vocabulary: what a user teaches the model in the demo and the workflows.

No caption names them and the random "object" class cannot draw them. Their painters take
coordinates in units of the object's radius and return where it is and its colours.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .shapes import COLOURS, OUTLINES, TEXTURES, Array, Colour, Mask
from .world import SIZE, Item, Paint, Scene, article, place, render, vocabulary_item

Layer = tuple[Mask, Colour]


def _stack(base: Layer, *layers: Layer) -> tuple[Mask, Array]:
    """Layers painted over a base; marks outside the base are cut off."""
    where, colour = base
    canvas = np.broadcast_to(np.float32(colour), (*where.shape, 3)).copy()
    for mask, paint in layers:
        canvas[mask] = paint
    return where, canvas


def _disc(u: Array, v: Array, x: float = 0.0, y: float = 0.0, r: float = 0.95) -> Mask:
    return np.hypot(u - x, v - y) < r


def _box(u: Array, v: Array, x: float, y: float, half_width: float, half_height: float) -> Mask:
    return (abs(u - x) < half_width) & (abs(v - y) < half_height)


def swirl(u: Array, v: Array) -> tuple[Mask, Array]:
    turns = np.arctan2(v, u) / np.pi + 1.5 * np.hypot(u, v)
    return _stack((_disc(u, v), (250, 235, 215)), (np.mod(turns, 1) < 0.5, (10, 130, 130)))


def face(u: Array, v: Array) -> tuple[Mask, Array]:
    smile = (np.hypot(u, v) < 0.66) & (np.hypot(u, v) > 0.4) & (v > 0.12)
    eyes = _disc(u, v, -0.36, -0.28, 0.19) | _disc(u, v, 0.36, -0.28, 0.19)
    return _stack((OUTLINES["hexagon"](u, v), (250, 205, 90)), (smile | eyes, (60, 30, 90)))


def twotone(u: Array, v: Array) -> tuple[Mask, Array]:
    return _stack((_disc(u, v), (200, 30, 120)), (u > 0, (170, 225, 40)))


def bullseye(u: Array, v: Array) -> tuple[Mask, Array]:
    radius = np.hypot(u, v)
    gold = (radius > 0.35) & (radius < 0.65)
    return _stack((_disc(u, v), (25, 35, 95)), (gold, (235, 190, 60)))


def split(u: Array, v: Array) -> tuple[Mask, Array]:
    square = np.maximum(abs(u), abs(v)) < 0.82
    return _stack((square, (15, 85, 60)), (v > 0, (250, 150, 125)))


def pinwheel(u: Array, v: Array) -> tuple[Mask, Array]:
    sector = np.mod(np.arctan2(v, u) / (np.pi / 4) + 0.5, 2) < 1
    square = np.maximum(abs(u), abs(v)) < 0.82
    return _stack((square, (150, 225, 130)), (sector, (75, 30, 140)))


def robot(u: Array, v: Array) -> tuple[Mask, Array]:
    head, body = _box(u, v, 0, -0.5, 0.42, 0.32), _box(u, v, 0, 0.38, 0.62, 0.5)
    arms = _box(u, v, 0, 0.25, 0.9, 0.13)
    antenna = _box(u, v, 0, -0.88, 0.07, 0.12)
    eyes = _disc(u, v, -0.18, -0.5, 0.13) | _disc(u, v, 0.18, -0.5, 0.13)
    metal = (head | body | arms | antenna, (120, 140, 165))
    return _stack(metal, (eyes, (255, 225, 60)), (_box(u, v, 0, 0.4, 0.32, 0.2), (215, 80, 30)))


def mug(u: Array, v: Array) -> tuple[Mask, Array]:
    body = _box(u, v, -0.2, 0, 0.55, 0.75)
    handle = _disc(u, v, 0.42, 0, 0.48) & ~_disc(u, v, 0.42, 0, 0.25) & (u > 0.3)
    band = body & (abs(v) < 0.24)
    return _stack((body | handle, (95, 60, 40)), (band, (240, 225, 195)))


def flower(u: Array, v: Array) -> tuple[Mask, Array]:
    petals = np.hypot(u, v) < 0.72 + 0.25 * np.cos(5 * np.arctan2(u, -v))
    return _stack((petals, (225, 90, 200)), (_disc(u, v, 0, 0, 0.33), (255, 230, 70)))


def fish(u: Array, v: Array) -> tuple[Mask, Array]:
    body = np.hypot((u + 0.2) / 0.75, v / 0.52) < 1
    tail = (u > 0.3) & (u < 0.95) & (abs(v) < (u - 0.2) * 0.85)
    stripes = (np.abs(np.mod(u + 0.2, 0.45) - 0.22) < 0.1) & body
    eye = _disc(u, v, -0.58, -0.12, 0.12)
    orange = (body | tail, (255, 120, 30))
    return _stack(orange, (stripes & (u > -0.45), (250, 250, 250)), (eye, (10, 10, 30)))


def mushroom(u: Array, v: Array) -> tuple[Mask, Array]:
    cap = (np.hypot(u / 0.95, (v - 0.05) / 0.95) < 1) & (v < 0.05)
    stem = _box(u, v, 0, 0.45, 0.28, 0.45)
    dots = (
        _disc(u, v, -0.45, -0.3, 0.18) | _disc(u, v, 0.4, -0.28, 0.2) | _disc(u, v, 0, -0.6, 0.17)
    )
    return _stack((cap | stem, (235, 215, 180)), (cap, (190, 20, 40)), (dots, (250, 240, 230)))


def badge(u: Array, v: Array) -> tuple[Mask, Array]:
    star = OUTLINES["star"](u / 0.55, v / 0.55)
    return _stack((OUTLINES["hexagon"](u, v), (60, 25, 75)), (star, (250, 200, 40)))


def moon(u: Array, v: Array) -> tuple[Mask, Array]:
    crescent = _disc(u, v, 0, 0, 0.98) & ~_disc(u, v, 0.45, -0.1, 0.72)
    tips = crescent & (abs(v) > 0.5)
    return _stack((crescent, (60, 225, 190)), (tips, (20, 60, 110)))


def house(u: Array, v: Array) -> tuple[Mask, Array]:
    walls, roof = _box(u, v, 0, 0.4, 0.65, 0.48), (v < -0.05) & (v > abs(u) * 1.0 - 0.95)
    door = _box(u, v, 0, 0.55, 0.2, 0.35)
    return _stack((walls | roof, (240, 225, 180)), (roof, (130, 50, 35)), (door, (45, 90, 130)))


def eye(u: Array, v: Array) -> tuple[Mask, Array]:
    almond = abs(v) < 0.62 * np.cos(np.clip(u / 0.98, -1, 1) * np.pi / 2)
    iris, pupil = _disc(u, v, 0, 0, 0.46), _disc(u, v, 0, 0, 0.22)
    return _stack((almond, (185, 200, 240)), (iris, (25, 110, 60)), (pupil, (5, 5, 5)))


def tree(u: Array, v: Array) -> tuple[Mask, Array]:
    crown = (v < 0.5) & (v > abs(u) * 1.9 - 1.0)
    snow = crown & (v < -0.35)
    trunk = _box(u, v, 0, 0.7, 0.17, 0.25)
    return _stack((crown | trunk, (100, 60, 30)), (crown, (20, 100, 70)), (snow, (185, 215, 250)))


CONCEPTS: dict[str, Paint] = {
    paint.__name__: paint
    for paint in (
        swirl, face, twotone, bullseye, split, pinwheel, robot, mug,
        flower, fish, mushroom, badge, moon, house, eye, tree,
    )
}  # fmt: skip


def item(name: str, spot: tuple[float, float, float], rng: np.random.Generator) -> Item:
    """A concept by its name, or a vocabulary object by its words ("red striped square")."""
    if name in CONCEPTS:
        x, y, radius = spot
        return Item(words=name, paint=CONCEPTS[name], x=x, y=y, radius=radius)
    words = name.split()
    texture = words[1] if len(words) == 3 else "plain"
    if words[0] not in COLOURS or words[-1] not in OUTLINES or texture not in TEXTURES:
        raise KeyError(f"unknown object {name!r}; concepts are {', '.join(CONCEPTS)}")
    return vocabulary_item(words[0], words[-1], texture, spot, rng)


def concept_scene(
    names: Sequence[str], seed: int = 0, background: str = "white", size: int = SIZE
) -> Scene:
    """A picture of one to three named objects, with one mask per name in the same order."""
    rng = np.random.default_rng(seed)
    items = [
        item(name, spot, rng) for name, spot in zip(names, place(len(names), rng), strict=True)
    ]
    image, masks = render(items, background, rng, size)
    caption = "a photo of " + " and ".join(article(name) for name in names)
    return Scene(
        image=image, masks=masks, caption=caption, items=tuple(items), background=background
    )
