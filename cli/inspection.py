"""The contents of a concept file, formatted for the console."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch.nn.functional as F
from rich.console import Group, RenderableType
from rich.style import Style
from rich.table import Table
from rich.text import Text
from torch import Tensor

from ..concepts.concept_file import ConceptInfo

UPPER_HALF = "\u2580"  # its ink is the upper pixel, its ground the lower one
THUMBNAIL_COLUMNS = 32


def file_summary(path: Path, info: ConceptInfo, *, in_colour: bool = True) -> RenderableType:
    """Handles, recipe, sizes, prompts and, in colour, the thumbnail of one file."""
    concept = info.concept
    facts = Table.grid(padding=(0, 2))
    facts.add_column(style="bold")
    facts.add_column(overflow="fold")
    for name, text in _facts(info):
        facts.add_row(name, Text(text))
    handles = Table("handle", "word", "vectors")
    for name, vectors in info.handles.items():
        numbers = ", ".join(f"{n} for {encoder}" for encoder, n in vectors.items())
        handles.add_row(Text(f"<{name}>"), Text(concept.words.get(name, "") or "-"), numbers)
    recipe = Table("setting", "value", title="recipe", title_justify="left")
    for name, value in flat(concept.recipe):
        recipe.add_row(name, Text(_as_text(value)))
    title = Text(str(path), style="bold underline")
    parts: list[RenderableType] = [title, facts, handles, recipe]
    if in_colour and concept.thumbnail is not None:
        parts.append(blocks(concept.thumbnail))
    return Group(*parts)


def _facts(info: ConceptInfo) -> Iterator[tuple[str, str]]:
    concept = info.concept
    yield "method", concept.method
    yield "base model", concept.base
    yield "size", f"{info.size_bytes / 1e6:.2f} MB, {info.numbers:,} numbers"
    yield "weights", f"{info.weights} changed" if info.weights else "none: handles only"
    yield "seeds", ", ".join(f"{name} {seed}" for name, seed in concept.seeds.items())
    yield "losses", ", ".join(f"{name} {_as_text(v)}" for name, v in concept.history.items())
    for prompt in concept.prompts:
        yield "prompt", prompt


def flat(recipe: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Settings of nested configs by dotted names."""
    for name, value in recipe.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _as_text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(getattr(value, "value", value))


def blocks(thumbnail: Tensor) -> Text:
    """A picture [H, W, 3], 0..1, as coloured characters, two pixels each."""
    height, width = thumbnail.shape[:2]
    lines = max(1, round(THUMBNAIL_COLUMNS * height / width / 2))
    small = F.interpolate(
        thumbnail.movedim(-1, 0)[None], (2 * lines, THUMBNAIL_COLUMNS), mode="area"
    )
    pixels = (small[0].movedim(0, -1).clamp(0, 1) * 255).round().int().tolist()
    text = Text()
    for y in range(0, 2 * lines, 2):
        for upper, lower in zip(pixels[y], pixels[y + 1], strict=True):
            ink, ground = (f"rgb({r},{g},{b})" for r, g, b in (upper, lower))
            text.append(UPPER_HALF, Style.parse(f"{ink} on {ground}"))
        text.append("\n")
    return text
