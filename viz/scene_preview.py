"""Preview of a scene: mask outlines on the pictures, and masks on the latent grid."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from ..scenes.masks import erode, mask_on_grid
from ..scenes.scene import ConceptScene, SceneImage
from .colors import ALARM, INK, QUIET, RGB, RULE, as_ink, blend, concept_colours, contrast
from .drawing import Box, Canvas, fitted, shortened

SMALLEST_PX, LARGEST_PX = 384, 480  # longer side of a picture
SMALL_AREA = 0.005  # of the picture; below it there is little to learn from
SMALL_OVERLAP = 0.05  # of the smaller mask; below it only soft edges meet
LARGE_OVERLAP = 0.3  # of the smaller mask; above it two words begin to mix
WHITE: RGB = (255, 255, 255)


def scene_preview(
    scene: ConceptScene,
    latent_grid: tuple[int, int] | None = None,
    colours: Mapping[str, RGB] | None = None,
) -> Tensor:
    """Every picture with its masks outlined, numbered and named; beside it the latent grid.

    Below each: how much of the picture a mask covers, how many latent cells see it, and which
    masks overlap. Masks that are too small or overlap too much are red.

    Args:
        latent_grid: (h, w) of the latents; masks are resized to it as in training. None omits
            that panel.
        colours: of the concepts; by their place in the scene when left out.

    Returns:
        [H, W, 3], 0..1.
    """
    known = colours or concept_colours(scene.names)
    numbers = {name: i for i, name in enumerate(scene.names, 1)}
    rows = [_Row(picture, scene, numbers, known, latent_grid) for picture in scene.images]
    gap = 24.0
    height = sum(row.height + gap for row in rows) + gap
    canvas = Canvas(max(row.width for row in rows) + 2 * gap, height)
    top = gap
    for row in rows:
        row.draw(canvas, gap, top)
        top += row.height + gap
    return canvas.tensor()


class _Row:
    """One picture of the scene: its overlay, its latent view and its legend."""

    def __init__(
        self,
        picture: SceneImage,
        scene: ConceptScene,
        numbers: Mapping[str, int],
        colours: Mapping[str, RGB],
        latent_grid: tuple[int, int] | None,
    ) -> None:
        self._picture, self._scene, self._grid = picture, scene, latent_grid
        self._numbers, self._colours = numbers, colours
        longest = min(LARGEST_PX, max(SMALLEST_PX, *picture.image.shape[:2]))
        self._side = fitted(picture.image.shape[:2], longest)
        self._text_px = max(13.0, longest / 30)
        self._line = self._text_px * 1.6
        self._gap = longest / 20
        self._overlaps = overlaps(picture.masks)
        self.width = max(self._side[0] * (2 if latent_grid else 1) + self._gap, 30 * self._text_px)
        n_lines = 1 + len(picture.masks) + len(self._overlaps) + len(picture.remarks)
        self.height = self._side[1] + self._line * n_lines + self._text_px * 0.5

    def draw(self, canvas: Canvas, left: float, top: float) -> None:
        """Draw all of it at a position."""
        box = (left, top, *self._side)
        self._draw_overlay(canvas, box)
        heading = top + self._side[1] + self._line * 0.65
        height, width = self._picture.image.shape[:2]
        canvas.text((left, heading), f"picture {width} x {height} px", self._text_px, QUIET)
        if self._grid:
            beside = (left + self._side[0] + self._gap, top, *self._side)
            self._draw_latent_view(canvas, beside, self._grid)
            caption = f"latents {self._grid[1]} x {self._grid[0]}"
            canvas.text((beside[0], heading), caption, self._text_px, QUIET)
        self._draw_legend(canvas, left, heading + self._line)

    def _draw_overlay(self, canvas: Canvas, box: Box) -> None:
        canvas.picture(self._picture.image, box)  # untinted: colours are what one looks for
        for name, mask in self._picture.masks.items():
            canvas.outline(mask, self._colours[name], box, self._text_px / 7)
        for name, mask in self._picture.masks.items():
            others = [m for other, m in self._picture.masks.items() if other != name]
            alone = mask * (1 - torch.stack(others).amax(dim=0)) if others else mask
            y, x = deepest_point(alone if alone.max() > 0.5 else mask)
            rim = self._text_px / min(box[2:])  # keeps the badge on the picture
            y, x = (min(max(n, rim), 1 - rim) for n in (y, x))
            place = (box[0] + x * box[2], box[1] + y * box[3])
            _draw_badge(canvas, place, self._numbers[name], self._colours[name], self._text_px)

    def _draw_latent_view(self, canvas: Canvas, box: Box, grid: tuple[int, int]) -> None:
        """The picture as coarse as the latents, grey, with every cell in its concept's colour."""
        grey = self._picture.image.mean(dim=-1)[None, None]
        coarse = F.interpolate(grey, grid, mode="area")[0, 0, :, :, None].expand(-1, -1, 3)
        canvas.picture(0.55 * coarse + 0.4, box, smooth=False)
        for name, mask in self._picture.masks.items():
            canvas.tint(mask_on_grid(mask, grid) * 0.75, self._colours[name], box, smooth=False)
        canvas.rectangle(box, edge=RULE)

    def _draw_legend(self, canvas: Canvas, left: float, y: float) -> None:
        size, masks = self._text_px, self._picture.masks
        for name, mask in masks.items():
            badge = (left + size * 0.8, y)
            _draw_badge(canvas, badge, self._numbers[name], self._colours[name], size * 0.9)
            word = self._scene.words.get(name, "")
            title = f"<{name}> {word}".strip()
            caption, is_bad = self._figures(mask)
            x = left + size * 2.2
            title = shortened(title, size, size * 11)
            canvas.text((x, y), title, size, colours=self._colours)
            canvas.text((x + size * 12, y), caption, size, ALARM if is_bad else INK)
            y += self._line
        for name, remark in self._picture.remarks.items():
            x = left + size * 2.2
            remark = shortened(f"<{name}> {remark}", size, self.width - size * 2.2)
            canvas.text((x, y), remark, size, ALARM)
            y += self._line
        for (a, b), share in self._overlaps.items():
            caption = f"<{a}> and <{b}> overlap by {_percent(share)} of the smaller"
            x = left + size * 2.2
            is_bad = share > LARGE_OVERLAP
            caption = shortened(caption, size, self.width - size * 2.2)
            canvas.text((x, y), caption, size, ALARM if is_bad else QUIET)
            y += self._line

    def _figures(self, mask: Tensor) -> tuple[str, bool]:
        """Area, and latent cells; whether there is too little to learn from."""
        area = float(mask.mean())
        caption, is_bad = f"{_percent(area)} of the picture", area < SMALL_AREA
        if self._grid:
            n_cells = int((mask_on_grid(mask, self._grid) > 0).sum())
            caption += f", {n_cells} cell{'' if n_cells == 1 else 's'}"
        return caption + (": too small" if is_bad else ""), is_bad


def overlaps(masks: Mapping[str, Tensor]) -> dict[tuple[str, str], float]:
    """Pairs that share pixels -> share of the smaller mask, 0..1; small ones left out."""
    shares = {
        (a, b): float(torch.minimum(masks[a], masks[b]).sum() / min(masks[a].sum(), masks[b].sum()))
        for a, b in itertools.combinations(masks, 2)
    }
    return {pair: share for pair, share in shares.items() if share >= SMALL_OVERLAP}


def deepest_point(mask: Tensor) -> tuple[float, float]:
    """(y, x), 0..1: the point inside of a mask that is farthest from its border, nearly.

    The centre of mass would fall into the hole of a ring.
    """
    small = F.interpolate(mask[None, None].float(), (64, 64), mode="area")
    depth, layer = torch.zeros_like(small), (small >= small.max() / 2).float()
    while layer.any():  # take one cell off all around, at most 32 times
        depth += layer
        layer = erode(layer, 1, beyond=0)
    deepest = (depth == depth.max()).nonzero()[:, 2:].float()
    y, x = deepest[(deepest - deepest.mean(dim=0)).pow(2).sum(dim=1).argmin()]
    return (float(y) + 0.5) / 64, (float(x) + 0.5) / 64


def _draw_badge(
    canvas: Canvas, place: tuple[float, float], number: int, colour: RGB, size: float
) -> None:
    fill = colour if contrast(colour, WHITE) >= 3 else blend(as_ink(colour), colour, 0.3)
    canvas.dot(place, WHITE, size * 0.86)
    canvas.dot(place, fill, size * 0.72)
    canvas.text(place, str(number), size * 0.9, WHITE, "mm")


def _percent(share: float) -> str:
    if 0 < share < 0.0005:
        return "< 0.1 %"
    return f"{100 * share:.1f} %" if share < 0.1 else f"{100 * share:.0f} %"
