"""ConceptLab's workflows in a real ComfyUI; the judge looks at what they drew."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from conceptlab_stories import HANDLE
from headless import HeadlessComfyUI

from conceptloom.tinyworld.judge.judge import load_judge

from .graphs import api, by_title, pictures

LIMIT = 1800  # seconds; half a minute on a quiet machine

pytestmark = pytest.mark.slow


def shortened(name: str, steps: int) -> dict[str, Any]:
    """The workflow with runs of a few steps: all of it works, little is learned."""
    graph = api(name)
    for node in graph.values():
        if "look_every" in node["inputs"]:
            node["inputs"] |= {"steps": steps, "look_every": steps // 2}
    return graph


def test_inventing_leaves_what_it_was_taken_for_and_draws_it_elsewhere(server: HeadlessComfyUI):
    graph = api("13-invent")
    shown = server.run(graph, LIMIT)
    (report,) = shown[by_title(graph, "Report")]["text"]
    assert report.count("now avoids") >= 2
    judge = load_judge()
    beach = pictures(server, shown[by_title(graph, "At the beach")])
    assert [judge.background(image) for image in beach].count("beach") >= 3
    invention = pictures(server, shown[by_title(graph, "The invention")])
    assert sum(bool(judge.find(image)) for image in [*invention, *beach]) >= 3
    assert (server.base / "models" / "concepts" / "creature.safetensors").is_file()


def test_a_mixture_follows_its_weights(server: HeadlessComfyUI):
    graph = shortened("14-mix", 40)
    shown = server.run(graph, LIMIT)
    both = [
        np.stack(pictures(server, shown[by_title(graph, f"{title}: samples")])).astype(float)
        for title in ("Half and half", "More of a fish")
    ]
    assert np.abs(both[0] - both[1]).mean() > 1  # of 255


def test_the_grandchild_knows_its_ancestors(server: HeadlessComfyUI):
    graph = shortened("15-three-generations", 6)
    shown = server.run(graph, LIMIT)
    (tree,) = shown[by_title(graph, "Family tree")]["text"]
    assert "my-grandchild (generation 2): 50% my-child + 50% photo-1" in tree
    assert "my-child (generation 1): 50% my-parent-1 + 50% my-parent-2" in tree
    for title in ("First parent", "Second parent", "The child", "The grandchild"):
        assert pictures(server, shown[by_title(graph, title)])


def test_the_shipped_invention_is_drawn_and_known_things_stay_known(server: HeadlessComfyUI):
    """On the grass there is something, and at night it stands beside a blue ball."""
    graph = api("16-invention-in-a-scene")
    shown = server.run(graph, LIMIT)
    drawn = {
        graph[number]["inputs"]["filename_prefix"].rpartition("/")[2]: pictures(server, node)
        for number, node in shown.items()
        if graph[number]["class_type"] == "SaveImage"
    }
    judge = load_judge()
    for place, images in drawn.items():
        assert [judge.background(image) for image in images].count(place) >= 3, place
        assert sum(bool(judge.find(image)) for image in images) >= 3, place
    balls = [[f"{one.colour} {one.kind}" for one in judge.find(i)] for i in drawn["night"]]
    assert sum("blue ball" in seen for seen in balls) >= 2, balls
    assert (server.base / "models" / "embeddings" / f"{HANDLE}.safetensors").is_file()
