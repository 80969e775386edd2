"""Colours of the previews: one per concept, distinguishable by colour-blind people."""

from __future__ import annotations

from collections.abc import Sequence

RGB = tuple[int, int, int]  # 0..255 each

PAPER: RGB = (250, 250, 248)
INK: RGB = (38, 42, 48)
QUIET: RGB = (104, 110, 118)  # second voice: axis labels, remarks
RULE: RGB = (222, 224, 226)  # grid lines, frames
ALARM: RGB = (190, 30, 45)

# Okabe and Ito, "Color Universal Design" (2008), without black and yellow, which paper and
# pictures swallow; then wine and olive of Paul Tol's "muted" scheme.
SERIES: tuple[RGB, ...] = (
    (0, 114, 178),  # blue
    (230, 159, 0),  # orange
    (0, 158, 115),  # green
    (204, 121, 167),  # pink
    (213, 94, 0),  # vermillion
    (86, 180, 233),  # sky
    (136, 34, 85),  # wine
    (153, 153, 51),  # olive
)


def series_colour(index: int) -> RGB:
    """The colour of the n-th concept; after the last of the series lighter ones, then darker."""
    turn, place = divmod(index, len(SERIES))
    if turn == 0:
        return SERIES[place]
    toward = (255, 255, 255) if turn % 2 else (0, 0, 0)
    return blend(SERIES[place], toward, 0.35)


def concept_colours(names: Sequence[str]) -> dict[str, RGB]:
    """Colour of every concept, by its place in the scene.

    Pass the names of the whole scene (`ConceptScene.names`) and use the result for every picture,
    so that a concept keeps its colour if only some are shown.
    """
    return {name: series_colour(i) for i, name in enumerate(dict.fromkeys(names))}


def blend(colour: RGB, other: RGB, share: float) -> RGB:
    """`colour` with a share 0..1 of another."""
    r, g, b = (round(a + (c - a) * share) for a, c in zip(colour, other, strict=True))
    return r, g, b


def as_ink(colour: RGB) -> RGB:
    """A darker colour of the same hue, for letters on paper: contrast 4.5 or more (WCAG AA)."""
    for _ in range(20):
        if contrast(colour, PAPER) >= 4.5:
            break
        colour = blend(colour, (0, 0, 0), 0.08)
    return colour


def contrast(a: RGB, b: RGB) -> float:
    """Contrast ratio of two colours, 1..21 (WCAG 2.1)."""
    dark, light = sorted((_luminance(a), _luminance(b)))
    return (light + 0.05) / (dark + 0.05)


def _luminance(colour: RGB) -> float:
    parts = [n / 255 for n in colour]
    r, g, b = (n / 12.92 if n <= 0.04045 else ((n + 0.055) / 1.055) ** 2.4 for n in parts)
    return 0.2126 * r + 0.7152 * g + 0.0722 * b
