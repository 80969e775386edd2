"""A picture of every node for its help page, from ComfyUI's editor. See make-node-pictures."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from browser import Chromium, missing
from editor import Editor
from headless import ROOT, HeadlessComfyUI
from PIL import Image

PICTURES = ROOT / "web" / "docs" / "images" / "nodes"
PREFIX = "ConceptLoom"
AROUND_PX, TITLE_PX = 14, 30
EMPTY = {"nodes": [], "links": [], "groups": [], "version": 0.4}
ALONE = """
    const graph = window.app.graph, node = LiteGraph.createNode(given[0]);
    graph.clear();
    node.id = given[1];  // the editor remembers widgets by it: a number twice is an old value
    graph.add(node);
    node.setSize([Math.max(node.computeSize()[0], 340), node.computeSize()[1]]);
"""
WHERE = """
    const canvas = window.app.canvas, [node] = window.app.graph.nodes, {scale, offset} = canvas.ds;
    const corner = canvas.canvas.getBoundingClientRect(), ratio = window.devicePixelRatio;
    return [(node.pos[0] + offset[0]) * scale + corner.left,
            (node.pos[1] + offset[1]) * scale + corner.top,
            node.size[0] * scale, node.size[1] * scale, scale].map((n, i) => i < 4 ? n * ratio : n);
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--comfyui", type=Path, required=True)
    options = parser.parse_args()
    if missing():
        raise SystemExit(f"install {' and '.join(missing())}")
    PICTURES.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory(prefix="conceptloom-nodes-") as base,
        HeadlessComfyUI(options.comfyui, Path(base)) as server,
        Chromium((1600, 1500)) as chromium,
    ):
        editor = Editor(server, chromium, {"Comfy.NodeBadge.NodeSourceBadgeMode": "None"})
        editor.load(EMPTY, "nodes")
        ours = sorted(name for name in server.get("/object_info") if name.startswith(PREFIX))
        for number, kind in enumerate(ours, start=1):
            editor.run(ALONE, kind, number)
            take(editor, kind, Path(base) / "screenshot.png")


def take(editor: Editor, kind: str, png: Path) -> None:
    """web/docs/images/nodes/<id>.jpg: the node and a little of the canvas around it."""
    editor.screenshot(png)
    left, top, width, height, scale = editor.run(WHERE)
    edge = AROUND_PX * scale
    box = left - edge, top - TITLE_PX * scale - edge, left + width + edge, top + height + edge
    with Image.open(png) as shot:
        shot.convert("RGB").crop(tuple(round(n) for n in box)).save(
            PICTURES / f"{kind}.jpg", quality=82, optimize=True
        )
    print(kind, flush=True)


if __name__ == "__main__":
    main()
