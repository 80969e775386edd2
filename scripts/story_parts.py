"""What the stories of all methods share: colours of groups, TinyWorld's size, a shown picture."""

from __future__ import annotations

from workflow_graph import Graph, Output

GREEN, BLUE, VIOLET = "#3f5f3f", "#3f4f6f", "#5a4a6a"
PX = 64  # side of a TinyWorld picture


def show(
    graph: Graph, title: str, images: Output, at: tuple[int, int], size: tuple[int, int]
) -> None:
    """A preview with a title."""
    graph.node("PreviewImage", at, size, title, images=images)
