"""What the stories of all methods share: colours of groups, sizes and settings of TinyWorld."""

from __future__ import annotations

from collections.abc import Sequence

from workflow_graph import Graph, Output

GREEN, BLUE, VIOLET = "#3f5f3f", "#3f4f6f", "#5a4a6a"
PX = 128  # side of a TinyWorld picture
DRAWING = {  # of TinyWorld, by a KSampler
    "seed": 7, "steps": 25, "cfg": 3.0, "sampler_name": "ddim", "scheduler": "normal",
    "denoise": 1.0,
}  # fmt: skip


def show(
    graph: Graph, title: str, images: Output, at: tuple[int, int], size: tuple[int, int]
) -> None:
    """A preview with a title."""
    graph.node("PreviewImage", at, size, title, images=images)


def batched(graph: Graph, images: Sequence[Output], at: tuple[int, int]) -> Output:
    """Several pictures as one batch."""
    sockets = {f"images__image{i}": image for i, image in enumerate(images)}
    return graph.node("BatchImagesNode", at, (230, 60), **sockets)[0]
