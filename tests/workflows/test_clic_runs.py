"""CLiC's workflows in a real ComfyUI: masks, pixels and the oracle tell what came of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from headless import HeadlessComfyUI

from conceptloom.tinyworld.oracle import load_oracle
from conceptloom.tinyworld.ornaments import ornament_scene
from conceptloom.tinyworld.world import Scene

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


def bare(told: dict[str, Any]) -> Scene:
    """What a TinyWorld Ornament node without an ornament renders; masks are [object, place]."""
    return ornament_scene(told["object"], "", told["seed"], told["background"], part=told["part"])


def test_an_ornament_is_carried_and_the_rest_stays(server: HeadlessComfyUI):
    graph, oracle = shortened("4-carry-an-ornament"), load_oracle()
    shown = server.run(graph, LIMIT)
    (before,) = pictures(server, shown[by_title(graph, "Before")])
    (carried,) = pictures(server, shown[by_title(graph, "Carried over")])
    target = graph[by_title(graph, "Another object")]["inputs"]
    place = bare(target).masks[1] > 0
    assert np.array_equal(carried[~place], before[~place])
    assert np.abs(carried[place].astype(float) - before[place]).mean() > 1  # of 255
    assert oracle.background(carried) == target["background"]


def test_an_ornament_is_learned_and_kept(server: HeadlessComfyUI):
    graph = shortened("7-learn-an-ornament")
    shown = server.run(graph, LIMIT)
    (report,) = shown[by_title(graph, "Report")]["text"]
    assert "<my-ornament>" in report
    assert pictures(server, shown[by_title(graph, "Attention of the word")])
    assert (server.base / "models" / "concepts" / "ornament.safetensors").is_file()


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
    magenta = (staged[..., 0] > 150) & (staged[..., 1] < 90) & (staged[..., 2] > 60)
    assert sum(magenta.mean(axis=(1, 2)) > 0.02) >= 3  # the ornament, in most of them
