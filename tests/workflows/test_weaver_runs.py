"""Concept Weaver's workflows in a real ComfyUI; the judge looks at what was woven."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from headless import HeadlessComfyUI
from weaver_stories import BANK, PX, SUBJECTS

from conceptloom.tinyworld.concepts import concept_scene
from conceptloom.tinyworld.judge.judge import load_judge
from conceptloom.tinyworld.judge.named import identity_of

from .graphs import api, by_title, read

LIMIT = 1800  # seconds; half a minute on a quiet machine

pytestmark = pytest.mark.slow


def woven(server: HeadlessComfyUI, graph: dict[str, Any], shown: dict[str, Any]) -> np.ndarray:
    (picture,) = shown[by_title(graph, "Woven")]["images"]
    return read(server.file(picture))


def decibels(graph: dict[str, Any], shown: dict[str, Any]) -> float:
    """What Invert Template told of its reconstruction."""
    (told,) = shown[by_title(graph, "Invert Template")]["text"]
    return float(told.split("reconstruction: ")[1].split()[0])


def template_of(graph: dict[str, Any], title: str = "Template") -> Any:
    """The scene that TinyWorld Scene renders, at the model's size, with its masks."""
    told = graph[by_title(graph, title)]["inputs"]
    return concept_scene(told["objects"].split(", "), told["seed"], told["background"])


def gains(before: np.ndarray, after: np.ndarray, names: list[str], masks: Any) -> list[float]:
    """How much more like its concept the object of each region is than in the template, cosine."""
    judge = load_judge()

    def alike(image: np.ndarray, name: str, mask: np.ndarray) -> float:
        return identity_of([judge.describe(image, mask)], name).similarity

    pairs = list(zip(names, masks, strict=True))
    return [alike(after, *pair) - alike(before, *pair) for pair in pairs]


def test_two_are_trained_and_woven(server: HeadlessComfyUI):
    """So few steps teach little; the way is what counts here, and that the layout stays."""
    graph = api("10-train-two-weave-two")
    for node in graph.values():
        if "Train" in node["class_type"]:
            node["inputs"] |= {"steps": 6, "preview_steps": 1}
    shown = server.run(graph, LIMIT)
    assert decibels(graph, shown) > 30
    picture, truth = woven(server, graph, shown), template_of(graph)
    assert load_judge().background(picture) == "white"
    inside = truth.masks.max(axis=0) > 0.5
    change = np.abs(picture.astype(float) - truth.image).mean(axis=-1)
    assert change[inside].mean() > 2 * change[~inside].mean()
    (prompts,) = shown[by_title(graph, "Prompts")]["text"]
    for handle, (_, word) in SUBJECTS.items():
        assert f"<{handle}> {word}" in prompts


def test_three_stand_where_they_should_on_their_background(server: HeadlessComfyUI):
    graph = api("11-three-with-background")
    shown = server.run(graph, LIMIT)
    assert decibels(graph, shown) > 30
    picture, truth = woven(server, graph, shown), template_of(graph)
    gained = gains(truth.image, picture, list(BANK), truth.masks)
    assert np.mean(gained) > 0.15, gained


def test_a_photograph_is_woven_into(server: HeadlessComfyUI):
    graph = api("12-photograph-as-template")
    shown = server.run(graph, LIMIT)
    assert decibels(graph, shown) > 30
    picture, truth = woven(server, graph, shown), template_of(graph, "A scene")
    assert picture.shape == (PX, PX, 3)
    assert load_judge().background(picture) == "beach"
    gained = gains(truth.image, picture, ["cat4", "ball2"], truth.masks)
    assert np.mean(gained) > 0.15, gained
