"""Silhouettes, textures, colours and backgrounds of the world, drawn on a fine grid with numpy.

All coordinates are unit coordinates: the picture is the square 0..1 x 0..1, x to the right and
y down. A silhouette is a function of coordinates relative to the object's centre, in units of its
radius; a texture is a function of the same coordinates in picture units.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
Mask = NDArray[np.bool_]
Colour = tuple[int, int, int]  # 0..255

COLOURS: dict[str, Colour] = {
    "red": (215, 35, 35),
    "orange": (245, 140, 20),
    "yellow": (245, 225, 50),
    "green": (35, 150, 60),
    "cyan": (60, 205, 215),
    "blue": (40, 70, 210),
    "purple": (130, 45, 175),
    "pink": (250, 140, 190),
}
TEXTURES = ("plain", "striped", "dotted", "checkered")
# phrase -> kind; every phrase is written after the object
BACKGROUNDS = {
    "white": "on a white background",
    "gray": "on a gray background",
    "black": "on a black background",
    "grass": "on the grass",
    "beach": "at the beach",
    "sky": "in the sky",
    "bricks": "on a brick wall",
    "night": "in the night",
}
PLAIN: dict[str, Colour] = {
    "white": (245, 245, 245),
    "gray": (150, 150, 150),
    "black": (22, 22, 26),
}


def _circle(x: Array, y: Array) -> Mask:
    return np.hypot(x, y) < 0.95


def _ring(x: Array, y: Array) -> Mask:
    radius = np.hypot(x, y)
    return (radius < 1.0) & (radius > 0.52)


def _square(x: Array, y: Array) -> Mask:
    return np.maximum(abs(x), abs(y)) < 0.82


def _triangle(x: Array, y: Array) -> Mask:
    return (y < 0.78) & (y > abs(x) * 1.72 - 1.0)


def _cross(x: Array, y: Array) -> Mask:
    near, far = np.minimum(abs(x), abs(y)), np.maximum(abs(x), abs(y))
    return (near < 0.34) & (far < 1.0)


def _star(x: Array, y: Array) -> Mask:
    fold = np.pi / 5
    angle = abs(np.mod(np.arctan2(x, -y) + fold, 2 * fold) - fold)
    px, py = np.hypot(x, y) * np.cos(angle), np.hypot(x, y) * np.sin(angle)
    outer, inner = 1.12, 0.47
    ex, ey = inner * np.cos(fold), inner * np.sin(fold)
    return (ex - outer) * py - ey * (px - outer) > 0


def _hexagon(x: Array, y: Array) -> Mask:
    return np.maximum(abs(x) * 0.866 + abs(y) * 0.5, abs(y)) < 0.85


def _pill(x: Array, y: Array) -> Mask:
    return np.hypot(np.maximum(abs(x) - 0.45, 0), y) < 0.55


SHAPES: dict[str, Callable[[Array, Array], Mask]] = {
    "circle": _circle,
    "square": _square,
    "triangle": _triangle,
    "cross": _cross,
    "star": _star,
    "ring": _ring,
}
# outlines without a word, for concepts and for the random "object" class
OUTLINES: dict[str, Callable[[Array, Array], Mask]] = {
    **SHAPES,
    "hexagon": _hexagon,
    "pill": _pill,
}


def blob(x: Array, y: Array, rng: np.random.Generator) -> Mask:
    """A smooth random outline around the centre, about one radius wide."""
    angle = np.arctan2(y, x)
    edge = np.full_like(angle, 0.88)
    for waves in (2, 3, 4):
        edge += rng.uniform(-0.16, 0.16) / waves**0.5 * np.cos(waves * angle + rng.uniform(0, 6.3))
    return np.hypot(x, y) < edge


def pattern(name: str, x: Array, y: Array, period: float, phase: float) -> Mask:
    """Where the second colour of a texture goes; `period` in picture units."""
    u, v = x / period + phase, y / period + phase
    if name == "striped":
        return np.mod(u, 1) < 0.5
    if name == "dotted":
        return np.hypot(np.mod(u, 1) - 0.5, np.mod(v, 1) - 0.5) < 0.31
    if name == "checkered":
        return (np.mod(u / 1.3, 1) < 0.5) ^ (np.mod(v / 1.3, 1) < 0.5)
    if name == "rings":
        return np.mod(np.hypot(x, y) / period + phase, 1) < 0.5
    if name == "half":
        return x < 0
    return np.zeros(x.shape, bool)


def light(colour: Colour) -> Array:
    """The second colour of a textured vocabulary object: the colour mixed with white."""
    return np.float32(colour) * np.float32(0.3) + np.float32(255 * 0.7)
