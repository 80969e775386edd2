"""Previews of training: samples, and attention overlays."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from .colors import ALARM, PAPER, QUIET, RGB, as_ink, blend, concept_colours
from .drawing import Box, Canvas, fitted, shortened, wrapped

SHEET_PX = 1024  # widest sheet
LARGEST_PX = 512  # longer side of a picture on a sheet
SMALLEST_PX = {1: 384, 2: 384, 3: 320}  # by number of pictures; smaller ones are enlarged
SMALLEST_OF_MANY_PX = 236  # four to a row


def sample_strip(
    images: Sequence[Tensor],
    captions: Sequence[str],
    colours: Mapping[str, RGB] | None = None,
    n_columns: int | None = None,
) -> Tensor:
    """Pictures in rows, each with its prompt below; small ones are enlarged.

    Args:
        images: [H, W, 3] each, 0..1; sizes may differ.
        captions: one per picture, two lines at most; "" for none.
        colours: of the concepts, in which their handles (`<mug>`) are written.
        n_columns: pictures in a row; None chooses. For one row per preview, give its pictures.

    Returns:
        [H, W, 3], 0..1.
    """
    if not images:
        return _notice("No pictures yet")
    sheet = _Sheet([_size(image) for image in images], 2 if any(captions) else 0, n_columns)
    for i, (image, caption) in enumerate(zip(images, captions, strict=True)):
        box = sheet.box(i)
        sheet.canvas.picture(image, box)
        lines = wrapped(caption, sheet.text_px, sheet.box(i)[2], 2)
        for n, line in enumerate(lines):
            sheet.canvas.text(sheet.line_place(i, n), line, sheet.text_px, colours=colours)
    return sheet.canvas.tensor()


def attention_overlay(
    image: Tensor,
    maps: Mapping[str, Tensor],
    masks: Mapping[str, Tensor] | None = None,
    scores: Mapping[str, tuple[float, float]] | None = None,
    colours: Mapping[str, RGB] | None = None,
) -> Tensor:
    """One panel per word: the picture, dark without attention, with the outline of the mask.

    Each map is shown relative to its own maximum, so panels show the place of attention, not
    its strength.

    Args:
        image: [H, W, 3], 0..1.
        maps: name of a concept, or a plain word -> [h, w], 0 or more, any scale.
        masks: name -> [H, W], 0..1; may lack names.
        scores: name -> (IoU, leak), as `attention_scores` gives them; may lack names.
        colours: of the concepts; other names are plain words, coloured by position. Without it,
            all maps are concepts.

    Returns:
        [H, W, 3], 0..1.
    """
    if not maps:
        return _notice("No attention maps")
    handles = list(maps) if colours is None else list(colours)
    all_colours = concept_colours([*handles, *maps]) | dict(colours or {})
    sheet = _Sheet([_size(image)] * len(maps), n_lines=2)
    for i, (name, heat) in enumerate(maps.items()):
        box, colour = sheet.box(i), all_colours[name]
        title = shortened(f"<{name}>" if name in handles else name, sheet.text_px, sheet.box(i)[2])
        sheet.canvas.text(sheet.line_place(i, 0), title, sheet.text_px, as_ink(colour))
        if not heat.isfinite().all():
            sheet.canvas.picture(image * 0.35, box)
            sheet.canvas.text(sheet.line_place(i, 1), "map is not finite", sheet.text_px, ALARM)
            continue
        _draw_heat(sheet.canvas, image, heat, colour, box)
        if masks and name in masks:
            sheet.canvas.outline(masks[name], colour, box, max(1.5, box[3] / 160))
        if scores and name in scores:
            caption = describe_scores(*scores[name])
            sheet.canvas.text(sheet.line_place(i, 1), caption, sheet.text_px, QUIET)
    return sheet.canvas.tensor()


def describe_scores(iou: float, leak: float) -> str:
    """Caption of a word's two scores."""
    if math.isnan(iou) or math.isnan(leak):
        return "IoU -  leak -"
    return f"IoU {iou:.2f}  leak {leak:.2f}"


def _draw_heat(canvas: Canvas, image: Tensor, heat: Tensor, colour: RGB, box: Box) -> None:
    """Dim picture, the concept's colour where the map is warm, nearly white where it is hottest."""
    grey = image.mean(dim=-1, keepdim=True)
    canvas.picture((0.4 * image + 0.6 * grey) * 0.45, box)
    warm = heat.float() / heat.max().clamp_min(1e-12)
    canvas.tint(0.85 * warm.clamp(0, 1) ** 1.3, colour, box)
    canvas.tint(0.8 * (2 * warm - 1).clamp(0, 1) ** 2, blend(colour, (255, 255, 255), 0.8), box)


def stacked(pictures: Sequence[Tensor]) -> Tensor:
    """Pictures [H, W, 3] of any width below each other, padded with paper colour at the right."""
    width = max(picture.shape[1] for picture in pictures)
    paper = torch.tensor(PAPER) / 255
    sheet = paper.repeat(sum(picture.shape[0] for picture in pictures), width, 1)
    top = 0
    for picture in pictures:
        sheet[top : top + picture.shape[0], : picture.shape[1]] = picture
        top += picture.shape[0]
    return sheet


class _Sheet:
    """A grid of tiles of one size, as square as the widest sheet allows, with room for captions."""

    def __init__(
        self, sizes: Sequence[tuple[int, int]], n_lines: int, n_columns: int | None = None
    ) -> None:
        self._sizes = sizes
        in_a_row = min(len(sizes), n_columns or len(sizes))
        smallest = SMALLEST_PX.get(in_a_row, SMALLEST_OF_MANY_PX)
        side = min(LARGEST_PX, max(smallest, *(max(size) for size in sizes)))
        if n_columns is None:  # as many as fit, then rows of nearly the same length
            n_rows = math.ceil(len(sizes) / min(len(sizes), max(3, SHEET_PX // side)))
            in_a_row = math.ceil(len(sizes) / n_rows)
        n_rows = math.ceil(len(sizes) / in_a_row)
        self._n_columns = in_a_row
        self._longest = min(side, int(SHEET_PX * 0.94 / in_a_row))
        shapes = [fitted(size, self._longest) for size in sizes]
        self.tile = (max(w for w, _ in shapes), max(h for _, h in shapes))
        self._gap = max(12.0, self._longest / 20)
        self.text_px = max(13.0, self._longest / 18)
        self._line = self.text_px * 1.35
        self._caption = self._line * n_lines + (self._gap * 0.5 if n_lines else 0)
        self.canvas = Canvas(
            in_a_row * (self.tile[0] + self._gap) + self._gap,
            n_rows * (self.tile[1] + self._caption + self._gap) + self._gap,
        )

    def _corner(self, index: int) -> tuple[float, float]:
        row, column = divmod(index, self._n_columns)
        left = self._gap + column * (self.tile[0] + self._gap)
        return round(left), round(self._gap + row * (self.tile[1] + self._caption + self._gap))

    def box(self, index: int) -> Box:
        """Box of a picture: the middle of its tile."""
        left, top = self._corner(index)
        width, height = fitted(self._sizes[index], self._longest)
        return left + (self.tile[0] - width) // 2, top + (self.tile[1] - height) // 2, width, height

    def line_place(self, index: int, n: int) -> tuple[float, float]:
        """Left middle of the n-th line below a tile."""
        _, top = self._corner(index)
        return self.box(index)[0], top + self.tile[1] + self._gap * 0.4 + self._line * (n + 0.5)


def _size(image: Tensor) -> tuple[int, int]:
    return image.shape[0], image.shape[1]


def _notice(text: str) -> Tensor:
    canvas = Canvas(512, 128)
    canvas.text((256, 64), text, 18, QUIET, "mm")
    return canvas.tensor()
