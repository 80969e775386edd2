"""ConceptLab's workflows in a real ComfyUI; geometry and the oracle look at what they drew."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from conceptlab_stories import HANDLE
from headless import HeadlessComfyUI

from conceptloom.tinyworld.oracle import load_oracle
from conceptloom.tinyworld.shapes import COLOURS
from conceptloom.tinyworld.silhouettes import nearest_silhouette

from .graphs import api, by_title, pictures

RED = (190, 20, 35)  # of the invention, as the base model draws it
LIMIT = 1800  # seconds; half a minute on a quiet machine

pytestmark = pytest.mark.slow


def shortened(name: str, steps: int) -> dict[str, Any]:
    """The workflow with runs of a few steps: all of it works, little is learned."""
    graph = api(name)
    for node in graph.values():
        if "look_every" in node["inputs"]:
            node["inputs"] |= {"steps": steps, "look_every": steps // 2}
    return graph


def overlaps(images: list[np.ndarray]) -> list[float]:
    """Of the largest object of every picture with its nearest named silhouette."""
    found = [objects[0] for objects in map(load_oracle().find, images) if objects]
    return [nearest_silhouette(one.mask).overlap for one in found]


def share_near(image: np.ndarray, colour: tuple[int, int, int]) -> float:
    """Part of a picture that has about this colour."""
    return float((np.linalg.norm(image.astype(float) - colour, axis=-1) < 60).mean())


def test_inventing_leaves_what_it_was_taken_for_and_draws_it_elsewhere(server: HeadlessComfyUI):
    graph = api("13-invent")
    shown = server.run(graph, LIMIT)
    (report,) = shown[by_title(graph, "Report")]["text"]
    assert report.count("now avoids") >= 2
    assert "'object' is forbidden" in report, "it was never without a name"
    beach = pictures(server, shown[by_title(graph, "At the beach")])
    oracle = load_oracle()
    assert [oracle.background(image) for image in beach].count("beach") >= 3
    invention = pictures(server, shown[by_title(graph, "The invention")])
    assert overlaps(invention), "the oracle finds no object"
    assert (server.base / "models" / "concepts" / "invented.safetensors").is_file()


def test_a_mixture_follows_its_weights(server: HeadlessComfyUI):
    graph = shortened("14-mix", 40)
    shown = server.run(graph, LIMIT)
    both = [
        np.stack(pictures(server, shown[by_title(graph, f"{title}: samples")])).astype(float)
        for title in ("Half and half", "More of a star")
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
    """On grass the thing is there, and at night beside a star."""
    graph = api("16-invention-in-a-scene")
    shown = server.run(graph, LIMIT)
    drawn = {
        graph[number]["inputs"]["filename_prefix"].rpartition("/")[2]: pictures(server, node)
        for number, node in shown.items()
        if graph[number]["class_type"] == "SaveImage"
    }
    oracle = load_oracle()
    for place, images in drawn.items():
        assert [oracle.background(image) for image in images].count(place) >= 3, place
    for place, images in drawn.items():
        red = [share_near(image, RED) for image in images]
        assert sum(share > 0.01 for share in red) >= 3, (place, red)  # seen in all, from 0.02
    blue = [share_near(image, COLOURS["blue"]) for image in drawn["night"]]
    assert sum(share > 0.03 for share in blue) >= 3, blue  # seen in four, from 0.057
    assert (server.base / "models" / "embeddings" / f"{HANDLE}.safetensors").is_file()
