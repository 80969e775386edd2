"""CLiC's workflows in a real ComfyUI: masks, pixels and the judge tell what came of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from clic_stories import HANDLE, ORNAMENT, TARGETS
from headless import HeadlessComfyUI

from conceptloom.tinyworld.judge.judge import load_judge
from conceptloom.tinyworld.ornaments import OrnamentScene, ornament_scene

from .graphs import api, by_title, pictures

LIMIT = 1800  # seconds; half a minute on a quiet machine

pytestmark = pytest.mark.slow


def shortened(name: str) -> dict[str, Any]:
    """A workflow whose trainer takes a few steps only: all of it runs, little of it is learned."""
    graph = api(name)
    for node in graph.values():
        if "Trainer" in node["class_type"]:
            node["inputs"] |= {"preset.token_steps": 6, "preset.weight_steps": 6}
            node["inputs"] |= {"preview_steps": 1}
    return graph


def bare(told: dict[str, Any]) -> OrnamentScene:
    """What a TinyWorld Ornament node without an ornament renders; masks are [object, place]."""
    return ornament_scene(told["object"], "", told["seed"], told["background"])


def test_an_ornament_is_carried_and_the_rest_stays(server: HeadlessComfyUI):
    graph = shortened("4-carry-an-ornament")
    shown = server.run(graph, LIMIT)
    (before,) = pictures(server, shown[by_title(graph, "Before")])
    (carried,) = pictures(server, shown[by_title(graph, "Carried over")])
    target = graph[by_title(graph, "Another object")]["inputs"]
    place = bare(target).masks[1] > 0
    assert np.array_equal(carried[~place], before[~place])
    assert np.abs(carried[place].astype(float) - before[place]).mean() > 1  # of 255
    assert load_judge().background(carried) == target["background"]


def test_an_ornament_is_learned_and_kept(server: HeadlessComfyUI):
    graph = shortened("7-learn-an-ornament")
    shown = server.run(graph, LIMIT)
    (report,) = shown[by_title(graph, "Report")]["text"]
    assert f"<{HANDLE}>" in report
    assert pictures(server, shown[by_title(graph, "Attention of the word")])
    assert (server.base / "models" / "concepts" / f"{ORNAMENT}.safetensors").is_file()


def test_the_place_of_an_ornament_is_found_and_drawn_on(server: HeadlessComfyUI):
    graph = api("8-match-regions")
    shown = server.run(graph, LIMIT)
    masks = pictures(server, shown[by_title(graph, "Their masks")])
    targets = [
        bare(node["inputs"])
        for node in graph.values()
        if node["class_type"] == "ConceptLoomTinyWorldOrnament"
        and node["inputs"]["ornament"] == "none"
    ]
    found = [mask[..., 0] > 127 for mask in masks]
    overlaps = [
        (mask & (scene.masks[1] > 0.5)).sum() / (mask | (scene.masks[1] > 0.5)).sum()
        for mask, scene in zip(found, targets, strict=True)
    ]
    assert np.mean(overlaps) > 0.35, overlaps
    (drawn,) = pictures(server, shown[by_title(graph, "Drawn there")])
    changed = np.abs(drawn.astype(float) - targets[0].image).max(axis=-1)
    assert changed[~found[0]].max() <= 1  # of 255: a PNG rounds
    assert changed[found[0]].mean() > 5


def test_in_two_stages_more_of_the_base_models_object_is_left(server: HeadlessComfyUI):
    graph = api("9-new-objects")
    shown = server.run(graph, LIMIT)
    alone, staged, base = (
        np.stack(pictures(server, shown[by_title(graph, f"New objects, {steps} base steps")]))
        for steps in (0, 4, 20)
    )
    assert len(alone) == 4

    def apart(one: np.ndarray, other: np.ndarray) -> float:
        return float(np.abs(one.astype(float) - other).mean())

    assert apart(staged, base) < apart(alone, base)
    assert apart(alone, staged) > 1  # of 255
    kind = TARGETS[0]["object"].split()[-1]
    found = [load_judge().find(image) for image in staged]
    assert sum(any(one.kind == kind for one in objects) for objects in found) >= 2
