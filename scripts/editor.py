"""ComfyUI's editor in a browser: settings, workflows in, what it draws and queues out."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from browser import Chromium
from headless import HeadlessComfyUI

OPENS_WITHIN = 400  # seconds, on a busy machine
READY = "window.app?.graph && window.app.canvas && document.querySelector('#graph-canvas')"
# Without them a first visit begins with a tour, and the corner of every screenshot with a map.
QUIET = {
    "Comfy.TutorialCompleted": True,
    "Comfy.Minimap.Visible": False,
    "Comfy.Graph.CanvasInfo": False,
    "LiteGraph.Canvas.MinFontSizeForLOD": 0,  # texts stay in workflows that are small on the screen
}
NODES = """
    const canvas = window.app.canvas, scale = canvas.ds.scale, offset = canvas.ds.offset;
    const corner = canvas.canvas.getBoundingClientRect();
    // Drawn by Vue a node is an element, and may be larger than the graph says.
    const drawn = node => {
        const element = document.querySelector(`[data-node-id="${node.id}"]`);
        if (!element) return {at: [...node.pos], size: [...node.size]};
        const box = element.getBoundingClientRect();
        return {
            at: [(box.left - corner.left) / scale - offset[0],
                 (box.top - corner.top) / scale - offset[1] + LiteGraph.NODE_TITLE_HEIGHT],
            size: [box.width / scale, box.height / scale - LiteGraph.NODE_TITLE_HEIGHT],
        };
    };
    return canvas.graph.nodes.map(node => ({
        ...drawn(node), id: node.id, type: node.type, title: node.getTitle(),
        needs: [...node.computeSize()], failed: Boolean(node.has_errors),
        known: node.type in LiteGraph.registered_node_types || Boolean(node.isSubgraphNode?.()),
        inputs: (node.inputs || []).map(slot => slot.label || slot.localized_name || slot.name),
        widgets: (node.widgets || []).map(widget => widget.label || widget.name),
    }));
"""
FIT = """
    const canvas = window.app.canvas, graph = canvas.graph;
    const ends = [graph.inputNode, graph.outputNode].filter(Boolean);  // of a subgraph
    const boxes = [...graph.nodes, ...graph.groups, ...ends].map(item => item.boundingRect);
    const left = Math.min(...boxes.map(box => box[0])), top = Math.min(...boxes.map(box => box[1]));
    const width = Math.max(...boxes.map(box => box[0] + box[2])) - left;
    const height = Math.max(...boxes.map(box => box[1] + box[3])) - top;
    // What the editor's own bars cover: 70 px on the left, 110 px above.
    const scale = Math.min((canvas.canvas.clientWidth - 90) / width,
                           (canvas.canvas.clientHeight - 130) / height, given[0]);
    canvas.ds.scale = scale;
    canvas.ds.offset = [70 / scale - left, 110 / scale - top];
    canvas.setDirty(true, true);
    await new Promise(done => setTimeout(done, 1500));
"""


class Editor:
    """One page with the editor in it.

    Args:
        settings: of ComfyUI, over those that keep the editor quiet.
    """

    def __init__(
        self, server: HeadlessComfyUI, browser: Chromium, settings: dict[str, Any] | None = None
    ) -> None:
        self._server, self._browser = server, browser
        self.reopen(settings or {})

    def reopen(self, settings: dict[str, Any]) -> None:
        """Reload the page with these settings."""
        for name, value in {**QUIET, **settings}.items():
            self._server.post(f"/settings/{name}", value)
        self._browser.open(f"http://127.0.0.1:{self._server.port}/")
        self._browser.wait(READY, OPENS_WITHIN)
        time.sleep(3)  # blueprints, templates and the default workflow are still on their way
        self.at_start = self._browser.complaints()

    def load(self, workflow: dict[str, Any], name: str) -> None:
        """Open a workflow as a user's file of this name is opened."""
        self._browser.run("await window.app.loadGraphData(given[0], true, true, given[1])",
                          workflow, name)  # fmt: skip
        time.sleep(1)

    def nodes(self) -> list[dict[str, Any]]:
        """What the canvas holds: names, and boxes in the graph's pixels, below the title."""
        return self._browser.run(NODES)

    def prompt(self) -> dict[str, Any]:
        """What the editor would queue."""
        return self._browser.run("return (await window.app.graphToPrompt()).output")

    def queue(self) -> None:
        """Press Run."""
        self._browser.run("await window.app.queuePrompt(0, 1)")

    def run(self, script: str, *arguments: Any) -> Any:
        return self._browser.run(script, *arguments)

    def complaints(self) -> list[str]:
        """Errors in the console since the last call."""
        return self._browser.complaints()

    def fit(self, largest: float = 1.0) -> None:
        """Bring the whole graph into the window, no larger than so many pixels a pixel."""
        self._browser.run(FIT, largest)

    def screenshot(self, path: Path) -> None:
        """The whole graph."""
        self.fit()
        self._browser.screenshot(path)
