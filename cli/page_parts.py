"""Pieces of HTML that the demo's page is made of: pictures, figures, tables, coloured handles."""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from html import escape

import torch.nn.functional as F
from torch import Tensor

from ..training.palette import as_ink, blend, concept_colours
from .picture_files import png_bytes

SHOWN_PX = 192  # pictures of 64 px are enlarged to this, so that no browser smears them
_HANDLE = re.compile(r"&lt;([A-Za-z0-9_-]+)&gt;")


def styles(handles: Sequence[str]) -> str:
    """Each handle in the colour that it has in the pictures, legible on light and on dark."""
    lines: list[str] = []
    for name, colour in concept_colours(handles).items():
        light, dark = as_ink(colour), blend(colour, (255, 255, 255), 0.45)
        lines.append(f".h-{name} {{ color: rgb{light}; }}")
        lines.append(f"@media (prefers-color-scheme: dark) {{ .h-{name} {{ color: rgb{dark}; }} }}")
    return "\n".join(lines)


def told(html: str) -> str:
    """Escaped text with the handles in their colours."""
    return _HANDLE.sub(r'<span class="handle h-\1">&lt;\1&gt;</span>', html)


def listed(words: Sequence[str]) -> str:
    """Words with "and" between, escaped."""
    return " and ".join(escape(word) for word in words)


def picture(image: Tensor, alt: str) -> str:
    """A picture [H, W, 3], 0..1, inside the page."""
    data = base64.b64encode(png_bytes(_enlarged(image))).decode()
    return f'<img src="data:image/png;base64,{data}" alt="{escape(alt, quote=True)}">'


def _enlarged(image: Tensor) -> Tensor:
    longest = max(image.shape[:2])
    if longest >= SHOWN_PX:
        return image
    size = [SHOWN_PX * side // longest for side in image.shape[:2]]
    grown = F.interpolate(image.movedim(-1, 0)[None].float(), size, mode="bicubic")
    return grown[0].movedim(0, -1).clamp(0, 1)


def figure(image: Tensor, caption: str) -> str:
    """A picture with a caption, which is HTML."""
    return f"<figure>{picture(image, _plain(caption))}<figcaption>{caption}</figcaption></figure>"


def marked_figure(pictures: Sequence[str], caption: str) -> str:
    """Pictures side by side over one caption; all three are HTML."""
    cells = "".join(f'<div class="cell">{each}</div>' for each in pictures)
    return f'<figure><div class="pair">{cells}</div><figcaption>{caption}</figcaption></figure>'


def mark(is_right: bool | None, why_not: str = "") -> str:
    """The oracle's tick or cross; nothing where it was not asked."""
    if is_right is None:
        return ""
    if is_right:
        return '<span class="mark" title="as asked">&#10003;</span>'
    return f'<span class="mark no" title="{escape(why_not, quote=True)}">&#10007;</span>'


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Cells are HTML."""
    head = "".join(f"<th>{text}</th>" for text in heads)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _plain(html: str) -> str:
    return re.sub(r"<[^>]*>", "", html).replace("&lt;", "<").replace("&gt;", ">")
