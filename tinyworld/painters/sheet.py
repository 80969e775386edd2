"""The surface that painters draw on: filled forms with parts, outlines and soft shading.

A painter works in units of the object's radius: u to the right, v down, the object inside the
square -1..1. A form is an array of signed distances, negative inside, so that forms combine by
minimum and maximum and every edge has an outline. The sheet keeps one number a pixel, the layer on
top; colours and part masks are looked up once, at the end, which is what makes drawing fast.
"""

from __future__ import annotations

import numpy as np

from ..shapes import COLOURS, Array, Colour, Mask

PALETTE: dict[str, Colour] = {
    **COLOURS,
    "white": (246, 243, 236),
    "black": (44, 40, 52),
    "gray": (150, 152, 160),
    "brown": (128, 84, 52),
    "cream": (248, 224, 180),
}
OUTLINE = 0.55  # brightness of an outline, of the colour that it encloses
BEVEL = 0.22  # radii from the edge to where a form has its full brightness
BEVEL_LIGHT = 0.16  # how much brighter it is there


class Sheet:
    """Layers of one object.

    Attributes:
        u, v: [h, w]  coordinates in radii of the object.
        edge: width of outlines, radii.
        tone: brightness of the object's colours, -1..1.
    """

    def __init__(self, u: Array, v: Array, edge: float, tone: float = 0.0) -> None:
        self.u, self.v, self.edge = u, v, np.float32(edge)
        self.brightness = 1 + 0.1 * tone
        self.layer = np.zeros(u.shape, np.uint8)  # 0 = nothing painted
        self.depth = np.zeros(u.shape, np.float32)
        self.colours: list[Array] = [np.zeros(3, np.float32)]
        self.parts: list[str] = [""]
        self.bearers: list[str] = [""]  # the part below a mark; of other layers the part itself
        self.is_outline: list[bool] = [False]

    def fill(self, form: Array, colour: str, part: str, outline: bool = True) -> None:
        """Paint a form as a piece of a part."""
        where = form < 0
        np.copyto(self.layer, self._new_layer(colour, part), where=where)
        np.copyto(self.depth, -form, where=where)
        if outline:
            rim = where & (form > -self.edge)
            np.copyto(self.layer, self._new_layer(colour, part, outline=True), where=rim)

    def mark(self, where: Mask, colour: str, part: str, on: str) -> None:
        """Paint flat on the part `on`, its other marks included; its outline stays."""
        where = where & self.inside(on)
        np.copyto(self.layer, self._new_layer(colour, part, on), where=where)

    def inside(self, part: str) -> Mask:
        """Where a part or a mark on it is on top, without outlines."""
        pairs = zip(self.bearers, self.is_outline, strict=True)
        return np.array([p == part and not rim for p, rim in pairs])[self.layer]

    def cover(self, *parts: str) -> Mask:
        """Where one of the parts is on top; without parts, where anything is."""
        if not parts:
            return self.layer > 0
        return np.array([p in parts for p in self.parts])[self.layer]

    def surface(self, part: str) -> Mask:
        """Where a part or a mark on it is on top."""
        return np.array([p == part for p in self.bearers])[self.layer]

    def paint(self, light: Array) -> Array:
        """Colours [h, w, 3], 0..255, under a brightness [h, w]."""
        soft = np.minimum(self.depth, np.float32(BEVEL)) * np.float32(BEVEL_LIGHT / BEVEL)
        return np.stack(self.colours)[self.layer] * (light + soft)[..., None]

    def _new_layer(self, colour: str, part: str, bearer: str = "", outline: bool = False) -> int:
        brightness = self.brightness * (OUTLINE if outline else 1.0)
        self.colours.append(np.float32(PALETTE[colour]) * np.float32(brightness))
        self.parts.append(part)
        self.bearers.append(bearer or part)
        self.is_outline.append(outline)
        return len(self.parts) - 1

    # Forms: signed distances [h, w], exact or nearly so close to the edge.

    def disc(self, x: float, y: float, r: float) -> Array:
        return np.sqrt((self.u - x) ** 2 + (self.v - y) ** 2) - np.float32(r)

    def oval(self, x: float, y: float, a: float, b: float, turn: float = 0.0) -> Array:
        du, dv = _turned(self.u - x, self.v - y, turn)
        away = np.sqrt((du * (1 / a)) ** 2 + (dv * (1 / b)) ** 2) - 1
        return away * np.float32(min(a, b))

    def box(
        self, x: float, y: float, a: float, b: float, r: float = 0.0, turn: float = 0.0
    ) -> Array:
        """Half width a, half height b, corners rounded by r."""
        du, dv = _turned(self.u - x, self.v - y, turn)
        return rounded(abs(du) - np.float32(a), abs(dv) - np.float32(b), r)

    def taper(
        self, x: float, top: float, bottom: float, wide: float, narrow: float, r: float = 0.0
    ) -> Array:
        """A trapezium from `top` (half width `wide`) down to `bottom` (half width `narrow`)."""
        slope = (narrow - wide) / (bottom - top)
        half = wide + (self.v - np.float32(top)) * np.float32(slope)
        across = (abs(self.u - np.float32(x)) - half) * np.float32(1 / np.hypot(1, slope))
        down = abs(self.v - np.float32((top + bottom) / 2)) - np.float32((bottom - top) / 2)
        return rounded(across, down, r)

    def bar(self, x1: float, y1: float, x2: float, y2: float, r: float) -> Array:
        """A thick line with round ends."""
        du, dv = self.u - np.float32(x1), self.v - np.float32(y1)
        ax, ay = x2 - x1, y2 - y1
        along = np.clip((du * ax + dv * ay) * (1 / max(ax * ax + ay * ay, 1e-9)), 0, 1)
        return np.sqrt((du - along * ax) ** 2 + (dv - along * ay) ** 2) - np.float32(r)

    def polygon(self, *points: tuple[float, float]) -> Array:
        """A convex polygon, its corners in clockwise order as seen (v points down)."""
        form: Array | None = None
        for (x1, y1), (x2, y2) in zip(points, [*points[1:], points[0]], strict=True):
            long = float(np.hypot(x2 - x1, y2 - y1))
            nx, ny = (y2 - y1) / long, -(x2 - x1) / long
            side = self.u * np.float32(nx) + self.v * np.float32(ny) - np.float32(x1 * nx + y1 * ny)
            form = side if form is None else np.maximum(form, side)
        assert form is not None
        return form


def rounded(a: Array, b: Array, r: float) -> Array:
    """Both of two distances at right angles, with the corner between them rounded."""
    if r <= 0:
        return np.maximum(a, b)
    a, b = a + np.float32(r), b + np.float32(r)
    outside = np.sqrt(np.maximum(a, 0) ** 2 + np.maximum(b, 0) ** 2)
    return outside + np.minimum(np.maximum(a, b), 0) - np.float32(r)


def union(*forms: Array) -> Array:
    """Where any of the forms is."""
    whole = forms[0]
    for form in forms[1:]:
        whole = np.minimum(whole, form)
    return whole


def both(a: Array, b: Array) -> Array:
    """Where both forms are."""
    return np.maximum(a, b)


def without(a: Array, b: Array) -> Array:
    """The first form where the second is not."""
    return np.maximum(a, -b)


def band(form: Array, half: float) -> Array:
    """A line of that half width along a form's edge."""
    return abs(form) - np.float32(half)


def _turned(u: Array, v: Array, angle: float) -> tuple[Array, Array]:
    if not angle:
        return u, v
    cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    return cos * u + sin * v, cos * v - sin * u
