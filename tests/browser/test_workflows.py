"""Every workflow in ComfyUI's real editor: nothing missing, nothing red, nothing overlapping."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from editor import Editor
from headless import ROOT

WORKFLOWS = ROOT / "workflows"
NAMES = sorted(path.stem for path in WORKFLOWS.glob("*.json"))
DRAWN_BY_VUE = {"canvas": False, "vue": True}
SLACK_PX = 8  # what a font may add to a node
TITLE_PX = 30


def ui(name: str) -> dict[str, Any]:
    return json.loads((WORKFLOWS / f"{name}.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module", params=DRAWN_BY_VUE)
def page(request: pytest.FixtureRequest, editor: Editor) -> tuple[str, Editor]:
    """The editor, with nodes drawn in either way that ComfyUI has."""
    editor.reopen({"Comfy.Locale": "en", "Comfy.VueNodes.Enabled": DRAWN_BY_VUE[request.param]})
    return request.param, editor


def test_the_editor_starts_without_a_word_about_us(page: tuple[str, Editor]):
    _, editor = page
    assert not [said for said in editor.at_start if "conceptloom" in said.lower()]


@pytest.mark.parametrize("name", NAMES)
def test_a_workflow_opens_whole(name: str, page: tuple[str, Editor], screenshots: Path):
    drawn_by, editor = page
    editor.load(ui(name), name)
    editor.screenshot(screenshots / f"{name}-{drawn_by}.png")
    assert not editor.complaints()
    nodes = editor.nodes()
    assert len(nodes) == len(ui(name)["nodes"])
    for node in nodes:
        assert node["known"], f"{node['type']} is missing"
        assert not node["failed"], f"{node['title']} is red"


@pytest.mark.parametrize("name", NAMES)
def test_the_editor_queues_what_the_api_file_holds(name: str, editor: Editor):
    editor.load(ui(name), name)
    stored = json.loads((WORKFLOWS / "api" / f"{name}.json").read_text(encoding="utf-8"))
    queued = {n: (v["class_type"], v["inputs"]) for n, v in editor.prompt().items()}
    assert queued == {n: (v["class_type"], v["inputs"]) for n, v in stored.items()}


@pytest.mark.parametrize("name", NAMES)
def test_nodes_have_the_room_that_they_need(name: str, page: tuple[str, Editor]):
    """Widgets fit into their node, nodes into their frame, and none lies on another."""
    _, editor = page
    workflow = ui(name)
    editor.load(workflow, name)
    editor.fit()
    nodes = editor.nodes()
    wrong = [
        f"{node['title']} needs {node['needs'][1]:.0f} px and has {node['size'][1]:.0f}"
        for node in nodes
        if node["needs"][1] > node["size"][1] + SLACK_PX
    ]
    boxes = [(n["title"], *n["at"], *n["size"]) for n in nodes]
    boxes = [(title, x, y - TITLE_PX, x + w, y + h) for title, x, y, w, h in boxes]
    wrong += [
        f"{upper[0]} and {lower[0]} overlap" for upper, lower in combinations(boxes, 2)
        if overlap(upper[1:], lower[1:])
    ]  # fmt: skip
    for group in workflow["groups"]:
        x, y, w, h = group["bounding"]
        for title, *box in boxes:
            if overlap(box, (x, y, x + w, y + h)) and not inside(box, (x, y, x + w, y + h)):
                wrong.append(f"{title} lies across the frame {group['title']}")
    assert not wrong, "\n".join(wrong)


def overlap(a: Sequence[float], b: Sequence[float]) -> bool:
    """Of two boxes: left, top, right, bottom."""
    return (
        a[0] < b[2] - SLACK_PX and b[0] < a[2] - SLACK_PX
        and a[1] < b[3] - SLACK_PX and b[1] < a[3] - SLACK_PX
    )  # fmt: skip


def inside(small: Sequence[float], large: Sequence[float]) -> bool:
    near = [s - edge for s, edge in zip(small, large, strict=True)]
    return min(near[:2]) >= -SLACK_PX and max(near[2:]) <= SLACK_PX
