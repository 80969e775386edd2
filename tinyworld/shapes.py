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


def paint_background(kind: str, x: Array, y: Array, rng: np.random.Generator) -> Array:
    """A background on the grid x, y (unit coordinates); [n, n, 3], 0..255."""
    if kind in PLAIN:
        return np.broadcast_to(np.float32(PLAIN[kind]), (*x.shape, 3)).copy()
    t = y[..., None]
    if kind == "grass":
        return _mix((110, 180, 70), (60, 120, 40), t) + _grain(x, rng, 14, (14, 16, 8))
    if kind == "beach":
        sea = _mix((40, 120, 175), (95, 185, 205), t / 0.35)
        sand = _mix((240, 222, 170), (222, 192, 130), (t - 0.35) / 0.65)
        shore = 0.35 + 0.03 * np.sin(x * rng.uniform(6, 12) + rng.uniform(0, 6.3))
        return np.where(t < shore[..., None], sea, sand + _grain(x, rng, 20, (8, 8, 7)))
    if kind == "sky":
        image = _mix((105, 165, 235), (200, 225, 250), t)
        for _ in range(int(rng.integers(2, 5))):
            cx, cy = rng.uniform(0, 1), rng.uniform(0.05, 0.85)
            for dx, lift in ((-0.08, 0.0), (0.0, 0.03), (0.08, 0.0)):
                far = np.hypot((x - cx - dx) / 0.1, (y - cy + lift) / 0.07)
                cloud = np.clip(1.35 - far, 0, 1)[..., None] * np.float32(0.9)
                image = image * (1 - cloud) + 250 * cloud
        return image
    if kind == "bricks":
        rows, px, py = 6.0, rng.uniform(0, 1), rng.uniform(0, 1)
        row = np.floor(y * rows + py)
        u, v = np.mod(x * rows / 2 + px + 0.5 * np.mod(row, 2), 1), np.mod(y * rows + py, 1)
        mortar = (u < 0.09) | (v < 0.18)
        return np.where(mortar[..., None], np.float32((196, 164, 146)), np.float32((160, 82, 62)))
    if kind == "night":
        image = _mix((12, 14, 48), (48, 38, 96), t)
        for _ in range(int(rng.integers(10, 16))):
            cx, cy, size = rng.uniform(0, 1), rng.uniform(0, 1), rng.uniform(0.012, 0.02)
            image = np.where((np.hypot(x - cx, y - cy) < size)[..., None], 245, image)
        return image
    raise KeyError(f"unknown background {kind!r}; known are {', '.join(BACKGROUNDS)}")


def _mix(top: Colour, bottom: Colour, t: Array) -> Array:
    t = np.clip(t, 0, 1)
    return np.float32(top) * (1 - t) + np.float32(bottom) * t


def _grain(x: Array, rng: np.random.Generator, cells: int, strength: Colour) -> Array:
    """Smooth noise of about `cells` lumps a side, per colour `strength`."""
    n = x.shape[0]
    coarse = rng.normal(0, 1, (cells + 1, cells + 1)).astype(np.float32)
    at = np.linspace(0, cells - 1e-4, n, dtype=np.float32)
    low, part = at.astype(int), at % 1
    rows = coarse[low] * (1 - part[:, None]) + coarse[low + 1] * part[:, None]
    full = rows[:, low] * (1 - part) + rows[:, low + 1] * part
    return full[..., None] * np.float32(strength)
