"""What the stories of all methods share: colours of groups, sizes and settings of TinyWorld."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import own_pack  # noqa: F401  (first)
from workflow_graph import Graph, Output

from conceptloom.methods.registry import settings_of_folder
from conceptloom.tinyworld.scenes import SIZE
from conceptloom.training.method_spec import TINYWORLD, RunSettings
from conceptloom.training.setting import BoundSetting, settings_in

GREEN, BLUE, VIOLET = "#3f5f3f", "#3f4f6f", "#5a4a6a"
PX = SIZE  # side of a TinyWorld picture
DRAWING = {  # of TinyWorld, by a KSampler
    "seed": 7, "steps": 25, "cfg": 3.0, "sampler_name": "ddim", "scheduler": "normal",
    "denoise": 1.0,
}  # fmt: skip
PREVIEW = {"preview_steps": 20, "preview_cfg": 3.0}


def widgets_of(
    chosen: RunSettings, usual: RunSettings, without: Collection[str] = ()
) -> dict[str, Any]:
    """Values of the widgets whose settings differ from the node's own."""
    before = {one.name: one.value for one in settings_in(usual)}
    return {
        one.name: _word_of(one)
        for one in settings_in(chosen)
        if one.declared.is_widget and one.applies and one.value != before.get(one.name)
        if one.name not in without
    }


def _word_of(one: BoundSetting) -> Any:
    """What a widget says for a value: one of its choices, a joined list, or the value itself."""
    if one.choices:
        return next(word for word, value in one.choices.items() if value == one.value)
    return one.declared.separators[0].join(one.value) if one.is_several else one.value


# Of Personalized Residuals, as the command line takes them for TinyWorld.
RESIDUALS = {
    **widgets_of(
        settings_of_folder("personalized_residuals", TINYWORLD),
        settings_of_folder("personalized_residuals"),
    ),
    "preview_every": 0,
    **PREVIEW,
}


def show(
    graph: Graph, title: str, images: Output, at: tuple[int, int], size: tuple[int, int]
) -> None:
    """A preview with a title."""
    graph.node("PreviewImage", at, size, title, images=images)


def batched(graph: Graph, images: Sequence[Output], at: tuple[int, int]) -> Output:
    """Several pictures as one batch."""
    sockets = {f"images__image{i}": image for i, image in enumerate(images)}
    return graph.node("BatchImagesNode", at, (230, 60), **sockets)[0]
