"""The blueprints of subgraphs/ in the editor."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from editor import Editor
from headless import ROOT

FILES = sorted((ROOT / "subgraphs").glob("*.json"))
INSIDE = """
    const [node] = window.app.graph.nodes;
    return {types: node.subgraph.nodes.map(inner => inner.type),
            widgets: node.widgets.map(widget => [widget.name, widget.value]),
            known: node.subgraph.nodes.every(
                inner => inner.type in LiteGraph.registered_node_types)};
"""


@pytest.mark.parametrize("path", FILES, ids=[path.stem for path in FILES])
def test_a_blueprint_opens_as_one_node_with_its_widgets(
    path: Path, editor: Editor, screenshots: Path
):
    editor.reopen({"Comfy.Locale": "en"})
    whole = json.loads(path.read_text(encoding="utf-8"))
    editor.load(whole, path.stem)
    (node,) = editor.nodes()
    assert node["title"] == path.stem
    (definition,) = whole["definitions"]["subgraphs"]
    inside = editor.run(INSIDE)
    assert inside["known"]
    assert inside["types"] == [inner["type"] for inner in definition["nodes"]]
    (shown,) = whole["nodes"]
    promoted = [name for _, name in shown["properties"]["proxyWidgets"]]
    assert inside["widgets"] == [
        list(pair) for pair in zip(promoted, shown["widgets_values"], strict=True)
    ]
    editor.run("window.app.canvas.setGraph(window.app.graph.nodes[0].subgraph)")
    editor.screenshot(screenshots / f"blueprint-{path.stem.lower().replace(' ', '-')}.png")
    assert not editor.complaints()
