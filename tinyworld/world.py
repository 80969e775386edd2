"""The renderer: random scenes with captions and exact masks, the same for the same generator.

Coordinates of items are unit coordinates (0..1, x right, y down); pictures are uint8
[S, S, 3] and masks float32 [N, S, S], 0..1, one per item in the order of the caption.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .shapes import (
    BACKGROUNDS,
    COLOURS,
    OUTLINES,
    SHAPES,
    TEXTURES,
    Array,
    Mask,
    blob,
    light,
    paint_background,
    pattern,
)
from .vocabulary import PROMPT_WORDS

SIZE = 64  # px, the size the bundled checkpoint was trained at
SUPERSAMPLE = 2
TEXTURE_PERIOD = 0.17  # picture units; 11 px of 64
OBJECT_WORDS = ("object", "thing", "toy")
GAP = 0.02  # least space between two items, picture units
RADII = {1: (0.19, 0.30), 2: (0.16, 0.235), 3: (0.125, 0.165)}  # picture units, by item count

Paint = Callable[[Array, Array], tuple[Mask, Array]]  # (u, v) in radii -> where, colour 0..255


@dataclass(frozen=True, kw_only=True)
class Item:
    """One object of a scene: where it is, what it is called, how it is painted."""

    words: str  # "red striped square", "object", or a concept's name
    paint: Paint
    x: float  # centre, picture units
    y: float
    radius: float
    angle: float = 0.0  # radians
    colour: str | None = None  # vocabulary objects only
    texture: str | None = None
    shape: str | None = None


@dataclass(frozen=True, kw_only=True)
class Scene:
    """A rendered picture and the truth about it."""

    image: NDArray[np.uint8]  # [S, S, 3]
    masks: Array  # [N, S, S], visible part of each item, 0..1
    caption: str
    items: tuple[Item, ...]
    background: str  # a key of BACKGROUNDS


def render(
    items: Sequence[Item], background: str, rng: np.random.Generator, size: int = SIZE
) -> tuple[NDArray[np.uint8], Array]:
    """Draw items over a background, later ones on top; image [S,S,3] and masks [N,S,S]."""
    n = size * SUPERSAMPLE
    at = (np.arange(n, dtype=np.float32) + 0.5) / n
    x, y = np.meshgrid(at, at)
    canvas = paint_background(background, x, y, rng)
    covers: list[Array] = []
    for item in items:
        reach = item.radius * 1.25
        rows = slice(max(0, int((item.y - reach) * n)), max(0, int((item.y + reach) * n)))
        cols = slice(max(0, int((item.x - reach) * n)), max(0, int((item.x + reach) * n)))
        dx, dy = (x[rows, cols] - item.x) / item.radius, (y[rows, cols] - item.y) / item.radius
        cos, sin = np.float32(np.cos(item.angle)), np.float32(np.sin(item.angle))
        where, colour = item.paint(cos * dx + sin * dy, cos * dy - sin * dx)
        canvas[rows, cols] = np.where(where[..., None], colour, canvas[rows, cols])
        cover = np.zeros((n, n), np.float32)
        cover[rows, cols] = where
        covers = [below * (1 - cover) for below in covers] + [cover]
    masks = np.stack([_shrink(c) for c in covers]) if covers else np.zeros((0, size, size), "f4")
    return np.clip(_shrink(canvas) + 0.5, 0, 255).astype(np.uint8), masks


def _shrink(fine: Array) -> Array:
    s = SUPERSAMPLE
    n = fine.shape[0] // s
    return fine.reshape(n, s, n, s, *fine.shape[2:]).mean((1, 3), dtype=np.float32)


def place(count: int, rng: np.random.Generator) -> list[tuple[float, float, float]]:
    """Random (x, y, radius) of items that lie inside the picture and do not touch."""
    low, high = RADII[count]
    while True:
        radii = rng.uniform(low, high, count)
        spots = [(*rng.uniform(r + 0.01, 0.99 - r, 2), r) for r in radii]
        pairs = [(a, b) for i, a in enumerate(spots) for b in spots[:i]]
        if all(np.hypot(a[0] - b[0], a[1] - b[1]) > a[2] + b[2] + GAP for a, b in pairs):
            return [(float(x), float(y), float(r)) for x, y, r in spots]


def vocabulary_item(
    colour: str,
    shape: str,
    texture: str,
    spot: tuple[float, float, float],
    rng: np.random.Generator,
) -> Item:
    """An object that the captions can name in full."""
    x, y, radius = spot
    turn, phase = float(rng.choice([0.0, np.pi / 4])), float(rng.uniform())
    period = TEXTURE_PERIOD / radius
    first, second = np.float32(COLOURS[colour]), light(COLOURS[colour])

    def paint(u: Array, v: Array) -> tuple[Mask, Array]:
        a, b = _turned(u, v, turn)
        marks = pattern(texture, a, b, period, phase)
        return SHAPES[shape](u, v), np.where(marks[..., None], second, first)

    words = " ".join([colour, shape] if texture == "plain" else [colour, texture, shape])
    return Item(
        words=words,
        paint=paint,
        x=x,
        y=y,
        radius=radius,
        angle=float(rng.uniform(-0.15, 0.15)),
        colour=colour,
        texture=texture,
        shape=shape,
    )


def nameless_item(spot: tuple[float, float, float], rng: np.random.Generator) -> Item:
    """An "object": two random colours in a random pattern on a random outline.

    It gives the model a wide prior for things it has no word for.
    """
    x, y, radius = spot
    first, second = np.float32(rng.uniform(15, 250, (2, 3)))
    outline = str(rng.choice([*OUTLINES, *["blob"] * 6]))
    name = str(rng.choice(["half", "rings", "striped", "dotted", "checkered"]))
    turn, phase = float(rng.uniform(0, np.pi)), float(rng.uniform())
    period = float(rng.uniform(0.13, 0.22)) / radius
    outline_rng = np.random.default_rng(int(rng.integers(2**31)))

    def paint(u: Array, v: Array) -> tuple[Mask, Array]:
        where = blob(u, v, outline_rng) if outline == "blob" else OUTLINES[outline](u, v)
        marks = pattern(name, *_turned(u, v, turn), period, phase)
        return where, np.where(marks[..., None], second, first)

    angle = float(rng.uniform(-0.4, 0.4))
    word = str(rng.choice(OBJECT_WORDS))
    return Item(words=word, paint=paint, x=x, y=y, radius=radius, angle=angle)


def _turned(u: Array, v: Array, angle: float) -> tuple[Array, Array]:
    cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    return cos * u + sin * v, cos * v - sin * u


def world_words() -> list[str]:
    """Every word that a caption of this world can hold."""
    phrases = " ".join(BACKGROUNDS.values()).split()
    return sorted({*PROMPT_WORDS, *COLOURS, *SHAPES, *TEXTURES, *phrases})


def article(words: str) -> str:
    """The words with "a" or "an" in front."""
    return ("an " if words[0] in "aeiou" else "a ") + words


def caption_of(items: Sequence[Item], background: str, rng: np.random.Generator) -> str:
    """A sentence about the scene; it now and then leaves a word out."""
    prefix = ("a photo of ", "a picture of ", "an image of ", "")[
        int(rng.choice(4, p=[0.7, 0.1, 0.1, 0.1]))
    ]
    phrase = BACKGROUNDS[background]
    if not items:
        return prefix + phrase.split(" ", 1)[1]
    parts = [article(_spoken(item, rng)) for item in items]
    if len(items) == 2 and abs(items[0].x - items[1].x) > 0.3 and rng.random() < 0.3:
        left = items[0].x < items[1].x
        sides = ("left", "right") if left else ("right", "left")
        parts = [f"{part} on the {side}" for part, side in zip(parts, sides, strict=True)]
    elif len(items) == 1 and abs(items[0].x - 0.5) > 0.15 and rng.random() < 0.2:
        parts = [f"{parts[0]} on the {'left' if items[0].x < 0.5 else 'right'}"]
    body = ", ".join(parts[:-1]) + " and " + parts[-1] if len(parts) > 1 else parts[0]
    return prefix + body + (" " + phrase if rng.random() < 0.93 else "")


def _spoken(item: Item, rng: np.random.Generator) -> str:
    if item.shape is None:
        return item.words
    words = [item.shape]
    if item.texture == "plain":
        words = ["plain", *words] if rng.random() < 0.08 else words
    elif rng.random() < 0.93:
        words = [str(item.texture), *words]
    return " ".join([str(item.colour), *words] if rng.random() < 0.96 else words)


def random_scene(rng: np.random.Generator, size: int = SIZE) -> Scene:
    """One training sample: nothing, one, two or three items on a random background."""
    count = int(rng.choice([0, 1, 2, 3], p=[0.03, 0.35, 0.56, 0.06]))
    spots = place(count, rng) if count else []
    colours = rng.permutation(list(COLOURS))  # no colour twice: the oracle reads objects by it
    items: list[Item] = []
    for spot, colour in zip(spots, colours, strict=False):
        if rng.random() < 0.12:
            items.append(nameless_item(spot, rng))
        else:
            shape = str(rng.choice(list(SHAPES)))
            texture = str(rng.choice(TEXTURES, p=[0.55, 0.15, 0.15, 0.15]))
            items.append(vocabulary_item(str(colour), shape, texture, spot, rng))
    background = str(rng.choice(list(BACKGROUNDS)))
    caption = caption_of(items, background, rng)
    image, masks = render(items, background, rng, size)
    return Scene(
        image=image, masks=masks, caption=caption, items=tuple(items), background=background
    )
