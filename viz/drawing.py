"""A drawing canvas: Pillow at a multiple of the size, downsampled at the end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw
from torch import Tensor

from ..host.prompt_text import HANDLE
from ..scenes.masks import dilate, erode
from .colors import INK, PAPER, RGB, as_ink
from .fonts import runs

FINE = 2  # drawn this many times larger, so that edges come out smooth

Point = tuple[float, float]  # (x, y) px from the top left
Box = tuple[float, float, float, float]  # (left, top, width, height) px


def text_width(text: str, size: float) -> float:
    """Width in px of one line."""
    return sum(font.getlength(piece) for piece, font in runs(text, round(size * FINE))) / FINE


def shortened(text: str, size: float, width: float) -> str:
    """The text, or as much of its beginning as fits into so many px, ending in dots."""
    if text_width(text, size) <= width:
        return text
    keep = len(text)
    while keep > 1 and text_width(text[:keep].rstrip() + "...", size) > width:
        keep -= 1
    return text[:keep].rstrip() + "..."


def wrapped(text: str, size: float, width: float, n_lines: int) -> list[str]:
    """The text in at most so many lines of so many px; the last one is shortened."""
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        last_one = len(lines) == n_lines
        if lines and (last_one or text_width(longer, size) <= width):
            lines[-1] = longer
        else:
            lines.append(word)
    return [shortened(line, size, width) for line in lines]


class Canvas:
    """Everything in px of the finished picture, x to the right, y down."""

    def __init__(self, width: float, height: float) -> None:
        self.size = (round(width), round(height))
        self._sheet = Image.new("RGB", (self.size[0] * FINE, self.size[1] * FINE), PAPER)
        self._draw = ImageDraw.Draw(self._sheet)

    def line(self, points: Sequence[Point], colour: RGB, width: float = 1) -> None:
        """A line through all points; a single point becomes a dot."""
        fine = [(x * FINE, y * FINE) for x, y in points]
        if len(fine) == 1:
            self.dot(points[0], colour, width)
        else:
            self._draw.line(fine, colour, max(1, round(width * FINE)), joint="curve")

    def dot(self, centre: Point, colour: RGB, radius: float) -> None:
        """A filled disc."""
        x, y, reach = centre[0] * FINE, centre[1] * FINE, radius * FINE
        self._draw.ellipse((x - reach, y - reach, x + reach, y + reach), colour)

    def rectangle(self, box: Box, fill: RGB | None = None, edge: RGB | None = None) -> None:
        """A filled or framed rectangle."""
        left, top, width, height = (n * FINE for n in box)
        corners = (left, top, left + width - 1, top + height - 1)
        self._draw.rectangle(corners, fill, edge, FINE)

    def text(
        self,
        place: Point,
        text: str,
        size: float,
        colour: RGB = INK,
        anchor: str = "lm",
        colours: Mapping[str, RGB] | None = None,
    ) -> None:
        """One line; handles (`<mug>`) have the colour of their concept, if known.

        Args:
            anchor: as Pillow's: l, m, r for the side, t, m, s, b for the height.
        """
        known = colours or {}
        x = place[0] - text_width(text, size) * {"l": 0, "m": 0.5, "r": 1}[anchor[0]]
        start = 0
        for match in HANDLE.finditer(text):
            if match[1] in known:
                x = self._piece(x, place[1], text[start : match.start()], size, colour, anchor)
                x = self._piece(x, place[1], match[0], size, as_ink(known[match[1]]), anchor)
                start = match.end()
        self._piece(x, place[1], text[start:], size, colour, anchor)

    def _piece(self, x: float, y: float, text: str, size: float, colour: RGB, anchor: str) -> float:
        for piece, font in runs(text, round(size * FINE)):
            self._draw.text((x * FINE, y * FINE), piece, colour, font, anchor=f"l{anchor[1]}")
            x += font.getlength(piece) / FINE
        return x

    def picture(self, image: Tensor, box: Box, *, smooth: bool = True) -> None:
        """An image [H, W, 3], 0..1, stretched into a box; cells stay sharp unless `smooth`."""
        fine = _fine_size(box)
        values = image.detach().float().cpu().nan_to_num(0).clamp(0, 1)
        picture = Image.fromarray((values * 255 + 0.5).byte().numpy())
        picture = picture.resize(
            fine, Image.Resampling.BICUBIC if smooth else Image.Resampling.NEAREST
        )
        self._sheet.paste(picture, (round(box[0] * FINE), round(box[1] * FINE)))

    def tint(self, weight: Tensor, colour: RGB, box: Box, *, smooth: bool = True) -> None:
        """Blend a colour over a box with opacity `weight` [h, w], 0..1."""
        fine = resampled(weight, _fine_size(box), smooth=smooth)
        self._stamp(fine, colour, box)

    def outline(self, mask: Tensor, colour: RGB, box: Box, width: float) -> None:
        """The edge of a mask [H, W] (where it crosses 0.5), white-rimmed to be seen anywhere."""
        inside = (resampled(mask, _fine_size(box)) >= 0.5).float()
        self._stamp(_edge(inside, width * 2), (255, 255, 255), box)
        self._stamp(_edge(inside, width), colour, box)

    def _stamp(self, weight: Tensor, colour: RGB, box: Box) -> None:
        stencil = Image.fromarray((weight * 255 + 0.5).byte().numpy())
        self._sheet.paste(colour, (round(box[0] * FINE), round(box[1] * FINE)), stencil)

    def tensor(self) -> Tensor:
        """The finished picture, [H, W, 3], 0..1."""
        small = self._sheet.reduce(FINE)
        return torch.from_numpy(np.array(small)).float() / 255


def resampled(plane: Tensor, size: tuple[int, int], *, smooth: bool = True) -> Tensor:
    """A plane [h, w] at (width, height), 0..1, float32 on the CPU, [height, width]."""
    values = plane.detach().float().cpu().nan_to_num(0).clamp(0, 1)[None, None]
    mode = "bicubic" if smooth else "nearest"
    return F.interpolate(values, size[::-1], mode=mode, antialias=smooth)[0, 0].clamp(0, 1)


def _edge(inside: Tensor, width: float) -> Tensor:
    """Pixels within half of `width` (px of the finished picture) of a mask's border."""
    reach = max(1, round(width * FINE / 2))
    return dilate(inside, reach) - erode(inside, reach)


def _fine_size(box: Box) -> tuple[int, int]:
    """(width, height) of a box on the fine sheet."""
    return max(1, round(box[2] * FINE)), max(1, round(box[3] * FINE))


def fitted(size: Sequence[int], longest_px: float) -> tuple[float, float]:
    """(width, height) in whole px of a picture (height, width) whose longer side becomes this."""
    height, width = size
    scale = longest_px / max(height, width)
    return max(1, round(width * scale)), max(1, round(height * scale))
