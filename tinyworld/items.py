"""Objects that belong to no class: plain shapes, which captions name in full, and nameless ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from .shapes import COLOURS, OUTLINES, SHAPES, Array, Mask, blob, light, pattern

TEXTURE_PERIOD = 0.17  # picture units; 22 px of 128

Paint = Callable[[Array, Array], tuple[Mask, Array]]  # (u, v) in radii -> where, colour 0..255


@dataclass(frozen=True, kw_only=True)
class Item:
    """How an object is painted, and what is said of it; a nameless one has no words."""

    paint: Paint
    angle: float = 0.0  # radians
    colour: str | None = None
    texture: str | None = None
    shape: str | None = None


def vocabulary_item(
    colour: str, shape: str, texture: str, radius: float, rng: np.random.Generator
) -> Item:
    """A plain shape; its radius, in picture units, decides how many marks fit on it."""
    turn, phase = float(rng.choice([0.0, np.pi / 4])), float(rng.uniform())
    period = TEXTURE_PERIOD / radius
    first, second = np.float32(COLOURS[colour]), light(COLOURS[colour])

    def paint(u: Array, v: Array) -> tuple[Mask, Array]:
        marks = pattern(texture, *_turned(u, v, turn), period, phase)
        return SHAPES[shape](u, v), np.where(marks[..., None], second, first)

    angle = float(rng.uniform(-0.15, 0.15))
    return Item(paint=paint, angle=angle, colour=colour, texture=texture, shape=shape)


def nameless_item(radius: float, rng: np.random.Generator) -> Item:
    """Two random colours in a random pattern on a random outline.

    It gives the model a wide prior for things it has no word for.
    """
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

    return Item(paint=paint, angle=float(rng.uniform(-0.4, 0.4)))


def _turned(u: Array, v: Array, angle: float) -> tuple[Array, Array]:
    cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    return cos * u + sin * v, cos * v - sin * u
