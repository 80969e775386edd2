"""Build workflows/: UI and API JSON, thumbnails, help pictures. See make-workflow-assets."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from headless import ROOT, HeadlessComfyUI
from PIL import Image
from workflow_stories import stories

WORKFLOWS = ROOT / "workflows"
HELP = ROOT / "web" / "docs" / "images"
THUMBNAIL_PX = (512, 384)
# Titles of the nodes whose pictures make the thumbnail.
ON_THUMBNAIL = {
    "1-learn-a-scene": ["Concept Scene", "Samples"],
    "2-use-the-words": ["Save Image"],
    "3-look-at-attention": ["Overlay"],
    "4-carry-an-ornament": ["Taught", "Before", "Carried over"],
    "5-residuals-and-lag": ["Save Image"],
    "6-two-concepts-with-lag": ["Save Image", "Masks, averaged"],
    "7-learn-an-ornament": ["Samples", "Attention of the word"],
    "8-match-regions": ["Attention of the place", "Their masks", "Drawn there"],
    "9-new-objects": [f"New objects, {n} base steps" for n in (0, 4, 20)],
    "10-train-two-weave-two": ["Invert Template", "Regions", "Woven"],
    "11-three-with-background": ["Concept Bank", "Regions", "Woven"],
    "12-photograph-as-template": ["Invert Template", "Regions", "Woven"],
    "13-invent": ["Timeline: a row per checkpoint", "The invention", "At the beach"],
    "14-mix": ["Half and half: samples", "More of a fish: samples"],
    "15-three-generations": ["First parent", "Second parent", "The child", "The grandchild"],
    "16-invention-in-a-scene": ["Save Image"],
    "17-learn-from-pictures": ["Save Image", "Where it is"],
    "18-two-loras": ["Drawn, localised", "Masks over the picture", "Drawn, merged"],
    "19-a-painted-mask": ["Drawn, painted", "Masks over the picture"],
    "20-lora-beside-a-concept": ["Plain words", "Merged", "Localised"],
}
# Help page picture -> workflow and title of the node that shows it.
IN_HELP = {
    "concept-scene": ("1-learn-a-scene", "Concept Scene"),
    "trainer-timeline": ("1-learn-a-scene", "Timeline: a row per preview"),
    "attention-maps": ("3-look-at-attention", "Overlay"),
}
PAPER = (250, 250, 248)
GAP_PX = 6  # of paper between two pictures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--comfyui", type=Path, required=True)
    parser.add_argument("--json-only", action="store_true", help="the JSON files, with nothing run")
    parser.add_argument("--only", nargs="+", help="run these stories, by the start of their names")
    parser.add_argument("--base", type=Path, help="ComfyUI's folders; a stopped run goes on there")
    options = parser.parse_args()
    for folder in (WORKFLOWS / "api", HELP):
        folder.mkdir(parents=True, exist_ok=True)
    base = options.base or Path(tempfile.mkdtemp(prefix="conceptloom-workflows-"))
    try:
        with HeadlessComfyUI(options.comfyui, base) as server:
            build(server, json_only=options.json_only, only=options.only or [""])
    finally:
        if not options.base:
            shutil.rmtree(base, ignore_errors=True)


def build(server: HeadlessComfyUI, *, json_only: bool, only: Sequence[str]) -> None:
    """The JSON of every story, and the pictures of those that run."""
    graphs = stories(server.get("/object_info"))
    for name, graph in graphs.items():
        write_json(WORKFLOWS / f"{name}.json", graph.ui())
        write_json(WORKFLOWS / "api" / f"{name}.json", graph.api())
    if json_only:
        return
    for name, graph in graphs.items():
        if not name.startswith(tuple(only)):
            continue
        tell(f"running {name}")
        began = time.monotonic()
        outputs = server.run(graph.api(), seconds=3000)
        tell(f"{time.monotonic() - began:.0f} s")
        for node in outputs.values():
            if node.get("text"):
                tell("\n".join(node["text"]))
        titles = {
            node.title: outputs[str(node.id)] for node in graph.nodes if str(node.id) in outputs
        }
        images = [
            picture
            for node in graph.nodes
            if str(node.id) in outputs and node.title in ON_THUMBNAIL[name]
            for picture in pictures(server, outputs[str(node.id)])
        ]
        thumbnail(images).save(WORKFLOWS / f"{name}.jpg", quality=88)
        for file, (story, title) in IN_HELP.items():
            if story == name:
                image = pictures(server, titles[title])[0]
                image.thumbnail((900, 900))
                image.save(HELP / f"{file}.jpg", quality=88)


def pictures(server: HeadlessComfyUI, outputs: dict[str, Any]) -> list[Image.Image]:
    """The pictures that a node shows."""
    return [
        Image.open(server.file(picture)).convert("RGB") for picture in outputs.get("images", [])
    ]


def thumbnail(images: Sequence[Image.Image]) -> Image.Image:
    """Pictures on paper: in their order, in as many rows as leave the least of it bare."""
    images = images[:12]
    splits = [np.array_split(np.arange(len(images)), n) for n in range(1, len(images) + 1)]
    layouts = [placed([[images[i] for i in row] for row in split]) for split in splits]
    best = max(layouts, key=lambda boxes: sum(width * height for _, _, width, height in boxes))
    sheet = Image.new("RGB", THUMBNAIL_PX, PAPER)
    for image, (left, top, width, height) in zip(images, best, strict=True):
        way = Image.Resampling.LANCZOS if width < image.width else Image.Resampling.BICUBIC
        sheet.paste(image.resize((width - GAP_PX, height - GAP_PX), way), (left, top))
    return sheet


def placed(rows: Sequence[Sequence[Image.Image]]) -> list[tuple[int, int, int, int]]:
    """Left, top, width and height of every picture: rows as wide as the sheet, or all smaller."""
    sheet_width, sheet_height = THUMBNAIL_PX
    ratios = [[image.width / image.height for image in row] for row in rows]
    heights = [sheet_width / sum(row) for row in ratios]
    scale = min(1, sheet_height / sum(heights))
    boxes, top = [], (sheet_height - scale * sum(heights)) / 2
    for row, height in zip(ratios, (scale * height for height in heights), strict=True):
        left = (sheet_width - height * sum(row)) / 2
        for ratio in row:
            boxes.append((round(left), round(top), round(height * ratio), round(height)))
            left += height * ratio
        top += height
    return boxes


def write_json(path: Path, data: Any) -> None:
    """JSON as git likes it."""
    path.write_text(json.dumps(data, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
