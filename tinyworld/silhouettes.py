"""How near an outline is to the world's named ones: geometry alone, nothing that was trained.

A judge of novelty for ConceptLab. The oracle's words answer the questions while a concept learns,
so the same words cannot say afterwards how new it became; an area of overlap can.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike

from .shapes import SHAPES, Array, Mask

GRID = 48  # cells a side that outlines are compared on
TURNS = 72  # rotations that are tried, over the full circle
_REACH = 2.0  # the grid reaches this far from the centre, in radii of a disc of the same area


@dataclass(frozen=True, slots=True)
class Nearest:
    """The named shape that an outline is most like."""

    name: str
    overlap: float  # intersection over union at the same area, centre and best rotation; 0..1

    @property
    def novelty(self) -> float:
        """0 for a named shape, more the less it overlaps with any."""
        return 1 - self.overlap


def nearest_silhouette(mask: ArrayLike) -> Nearest:
    """Which named shape an outline is most like, and how much.

    Args:
        mask: [h, w] where the object is, above 0.5.

    Raises:
        ValueError: it is nowhere.
    """
    outline = np.asarray(mask, np.float32) > 0.5
    if not outline.any():
        raise ValueError("the mask is empty; there is no outline to compare")
    seen = _standing(outline)
    best = Nearest("", -1.0)
    for name, turned in _templates().items():
        overlaps = (turned & seen).sum(axis=(1, 2)) / (turned | seen).sum(axis=(1, 2))
        if overlaps.max() > best.overlap:
            best = Nearest(name, float(overlaps.max()))
    return best


def _standing(mask: Mask) -> Mask:
    """The outline on the grid: centred, and with the area of a unit disc."""
    rows, columns = np.nonzero(mask)
    scale = float(np.sqrt(mask.sum() / np.pi))  # radius of a disc of the same area, px
    at = (np.arange(GRID) + 0.5) / GRID * 2 * _REACH - _REACH
    y, x = rows.mean() + at * scale, columns.mean() + at * scale
    return _between(mask, y, x) > 0.5


def _between(mask: Mask, y: Array, x: Array) -> Array:
    """Bilinear values of a mask at rows y and columns x; 0 outside of it."""
    padded = np.pad(mask.astype(np.float32), 1)
    y = np.clip(y + 1, 0, padded.shape[0] - 1.001)
    x = np.clip(x + 1, 0, padded.shape[1] - 1.001)
    i, j = y.astype(int), x.astype(int)
    down, right = (y - i)[:, None], (x - j)[None, :]
    upper = padded[i][:, j] * (1 - right) + padded[i][:, j + 1] * right
    lower = padded[i + 1][:, j] * (1 - right) + padded[i + 1][:, j + 1] * right
    return upper * (1 - down) + lower * down


@lru_cache(maxsize=1)
def _templates() -> dict[str, Mask]:
    """Name -> [TURNS, GRID, GRID]."""
    size = 128
    at = np.linspace(-1.5, 1.5, size, dtype=np.float32)
    x, y = np.meshgrid(at, at)
    templates: dict[str, Mask] = {}
    for name, shape in SHAPES.items():
        turns = []
        for angle in np.linspace(0, 2 * np.pi, TURNS, endpoint=False):
            cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
            turns.append(_standing(shape(cos * x + sin * y, cos * y - sin * x)))
        templates[name] = np.stack(turns)
    return templates
