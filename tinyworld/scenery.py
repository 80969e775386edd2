"""Backgrounds: the kinds of `shapes.BACKGROUNDS`, drawn at picture size."""

from __future__ import annotations

import numpy as np

from .shapes import BACKGROUNDS, PLAIN, Array, Colour


def scenery(kind: str, size: int, rng: np.random.Generator) -> Array:
    """A background [size, size, 3], 0..255; KeyError for one that is not known."""
    at = (np.arange(size, dtype=np.float32) + 0.5) / size
    x, y = at[None, :], at[:, None]
    if kind in PLAIN:
        return _studio(kind, x, y, rng)
    painters = {
        "grass": _grass,
        "beach": _beach,
        "sky": _sky,
        "bricks": _bricks,
        "night": _night,
    }
    if kind not in painters:
        raise KeyError(f"unknown background {kind!r}; known are {', '.join(BACKGROUNDS)}")
    return painters[kind](x, y, rng)


def _studio(kind: str, x: Array, y: Array, rng: np.random.Generator) -> Array:
    """One colour with a soft fall of light."""
    cx, cy = rng.uniform(0.3, 0.7, 2)
    fall = 1 - np.float32(rng.uniform(0.03, 0.12)) * ((x - cx) ** 2 + (y - cy) ** 2)
    return fall[..., None] * np.float32(PLAIN[kind])


def _grass(x: Array, y: Array, rng: np.random.Generator) -> Array:
    image = _between((122, 190, 84), (62, 128, 48), y[..., None] + 0 * x[..., None])
    image = image + _lumps(x.size, rng, 9)[..., None] * np.float32((9, 12, 6))
    blades = _lumps(x.size, rng, 42, 14)
    return image + (blades * (0.4 + 0.6 * y))[..., None] * np.float32((13, 15, 8))


def _beach(x: Array, y: Array, rng: np.random.Generator) -> Array:
    level = rng.uniform(0.3, 0.42)
    t = y[..., None] + 0 * x[..., None]
    sea = _between((44, 126, 182), (104, 194, 208), t / level)
    waves = np.sin((y * 60 + 1.5 * np.sin(x * 9 + rng.uniform(0, 6.3))) + rng.uniform(0, 6.3))
    sea = sea + (waves > 0.82)[..., None] * np.float32((16, 16, 12))
    sand = _between((243, 226, 178), (224, 195, 136), (t - level) / (1 - level))
    sand = sand + _lumps(x.size, rng, 26)[..., None] * np.float32((6, 6, 5))
    shore = y - level - 0.025 * np.sin(x * rng.uniform(6, 12) + rng.uniform(0, 6.3))
    wet = np.clip((shore + 0.004) * 80, 0, 1)[..., None]
    foam = np.clip(1.3 - abs(shore) * 110, 0, 1)[..., None]
    image = sea * (1 - wet) + sand * wet
    return image * (1 - foam) + np.float32(250) * foam


def _sky(x: Array, y: Array, rng: np.random.Generator) -> Array:
    image = _between((98, 160, 234), (206, 229, 251), y[..., None] + 0 * x[..., None])
    for _ in range(int(rng.integers(2, 5))):
        cx, cy, scale = rng.uniform(0, 1), rng.uniform(0.06, 0.9), rng.uniform(0.8, 1.3)
        cover = np.zeros(image.shape[:2], np.float32)
        for dx, lift, r in ((-0.1, 0.0, 0.07), (0.0, 0.035, 0.09), (0.1, 0.005, 0.075)):
            far = ((x - cx - dx * scale) / (r * scale * 1.25)) ** 2
            far = far + ((y - cy + lift * scale) / (r * scale * 0.85)) ** 2
            cover = np.maximum(cover, np.clip((1.25 - far) * 1.8, 0, 0.92))
        image = image * (1 - cover[..., None]) + 251 * cover[..., None]
    return image


def _bricks(x: Array, y: Array, rng: np.random.Generator) -> Array:
    rows, px, py = 7.0, rng.uniform(0, 1), rng.uniform(0, 1)
    row = np.floor(y * rows + py)
    across = x * rows / 2 + px + 0.5 * np.mod(row, 2)
    u, v = np.mod(across, 1), np.mod(y * rows + py, 1)
    tint = rng.uniform(-1, 1, (10, 8)).astype(np.float32)
    shade = tint[row.astype(int) % 10, np.floor(across).astype(int) % 8]
    brick = np.float32((163, 86, 66)) + shade[..., None] * np.float32((17, 11, 9))
    light = np.where((v > 0.9) | (u > 0.95), -14, 0)
    mortar = (u < 0.055) | (v + 0 * u < 0.12)
    return np.where(mortar[..., None], np.float32((200, 178, 160)), brick + light[..., None])


def _night(x: Array, y: Array, rng: np.random.Generator) -> Array:
    image = _between((13, 15, 50), (56, 44, 104), y[..., None] + 0 * x[..., None])
    image = image + _lumps(x.size, rng, 5)[..., None] * np.float32((3, 3, 7))
    for _ in range(int(rng.integers(12, 22))):
        cx, cy, r = rng.uniform(0, 1), rng.uniform(0, 1), rng.uniform(0.006, 0.014)
        glow = np.clip(1.6 - np.sqrt((x - cx) ** 2 + (y - cy) ** 2) / r, 0, 1)[..., None]
        image = image * (1 - glow) + np.float32((248, 244, 220)) * glow
    return image


def _between(top: Colour, bottom: Colour, t: Array) -> Array:
    t = np.clip(t, 0, 1)
    return np.float32(top) * (1 - t) + np.float32(bottom) * t


def _lumps(size: int, rng: np.random.Generator, columns: int, rows: int = 0) -> Array:
    """Smooth noise of that many lumps across and down, [size, size]."""
    rows = rows or columns
    coarse = rng.standard_normal((rows + 1, columns + 1), np.float32)
    return _weights(size, rows) @ coarse @ _weights(size, columns).T


def _weights(size: int, cells: int) -> Array:
    """Linear interpolation from cells + 1 knots to `size` pixels, [size, cells + 1]."""
    at = np.linspace(0, cells - 1e-4, size, dtype=np.float32)
    return np.maximum(0, 1 - abs(at[:, None] - np.arange(cells + 1, dtype=np.float32)))
