"""Workflows as the tests take them: the graph for the API, its nodes by title, what they showed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from headless import ROOT, HeadlessComfyUI
from PIL import Image


def api(name: str) -> dict[str, Any]:
    path = ROOT / "workflows" / "api" / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8"))


def by_title(graph: dict[str, Any], title: str) -> str:
    (found,) = [number for number, node in graph.items() if node["_meta"]["title"] == title]
    return found


def pictures(server: HeadlessComfyUI, node: dict[str, Any]) -> list[np.ndarray]:
    return [read(server.file(shown)) for shown in node["images"]]


def read(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))
