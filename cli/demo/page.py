"""The demo's page: one HTML file with its pictures inside, light and dark, no script."""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from pathlib import Path

import torch.nn.functional as F
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape
from torch import Tensor

from ...concepts.paths import write_atomically
from ...viz.colors import as_ink, blend, series_colour
from ..picture_files import png_bytes
from .story import Story

SHOWN_PX = 256  # smaller pictures are enlarged to this, smoothly, whatever the browser would do
_HANDLE = re.compile(r"<([^\s<>]+)>")
_WHITE = (255, 255, 255)


def write_page(stories: Sequence[Story], path: Path) -> Path:
    """Write the page, atomically. The same stories give the same bytes.

    Raises:
        StorageError: the file cannot be written.
    """
    write_atomically(path, [page_of(stories).encode("utf-8")])
    return path


def page_of(stories: Sequence[Story]) -> str:
    """The page as text."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["with_handles"] = with_handles
    environment.filters["data_uri"] = data_uri
    most = max((len(story.handles) for story in stories), default=0)
    template = environment.get_template("page.html.jinja")
    return template.render(stories=stories, colours=_colours(most))


def with_handles(text: str, story: Story) -> Markup:
    """Escaped text; the story's handles get the colours that they have in its pictures."""
    parts = _HANDLE.split(text)  # text, name, text, name, ...
    for place in range(1, len(parts), 2):
        name = parts[place]
        if name in story.handles:
            number = story.handles.index(name)
            span = Markup('<span class="handle h{}">&lt;{}&gt;</span>').format(number, name)
        else:
            span = escape(f"<{name}>")
        parts[place] = span
    return Markup("").join(parts)


def data_uri(image: Tensor) -> str:
    """A picture [H, W, 3], 0..1, as the source of an <img>."""
    return "data:image/png;base64," + base64.b64encode(png_bytes(_enlarged(image))).decode()


def _enlarged(image: Tensor) -> Tensor:
    longest = max(image.shape[:2])
    if longest >= SHOWN_PX:
        return image
    size = [SHOWN_PX * side // longest for side in image.shape[:2]]
    larger = F.interpolate(image.movedim(-1, 0)[None].float(), size, mode="bicubic")
    return larger[0].movedim(0, -1).clamp(0, 1)


def _colours(count: int) -> list[tuple[tuple[int, int, int], tuple[int, int, int]]]:
    """Colours of the first handles as in the pictures, legible on light and on dark."""
    return [(as_ink(c), blend(c, _WHITE, 0.45)) for c in map(series_colour, range(count))]
