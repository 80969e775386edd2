"""A batch's worker that is a ComfyUI server, on a real one."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from headless import HeadlessComfyUI
from PIL import Image

from conceptloom.batch.comfyui_worker import ComfyUIWorker
from conceptloom.batch.jobs import WORKFLOW, JobKind
from conceptloom.errors import InputError

KEY = 64 * "0"
# A picture goes in under a name, through a node, and is saved.
GRAPH = {
    "1": {"class_type": "LoadImage", "inputs": {"image": "given.png"}},
    "2": {
        "class_type": "ImageScale",
        "inputs": {
            "image": ["1", 0], "upscale_method": "nearest-exact", "width": 8, "height": 8,
            "crop": "disabled",
        },
    },
    "3": {"class_type": "SaveImage", "inputs": {"images": ["2", 0], "filename_prefix": "batch/a"}},
}  # fmt: skip


@pytest.fixture
def files(tmp_path: Path) -> dict[str, bytes]:
    Image.new("RGB", (16, 16), (200, 30, 30)).save(tmp_path / "given.png")
    picture = (tmp_path / "given.png").read_bytes()
    return {WORKFLOW: json.dumps(GRAPH).encode(), "given.png": picture}


def test_a_workflow_runs_with_its_values_and_its_pictures_come_back(
    server: HeadlessComfyUI, files: dict[str, bytes]
) -> None:
    worker = ComfyUIWorker(f"http://127.0.0.1:{server.port}")
    made = worker.perform(JobKind.WORKFLOW, KEY, {"values": {"2.width": 24}}, files)
    ((name, data),) = made.items()
    assert name.startswith("3-a_")
    picture = np.asarray(Image.open(io.BytesIO(data)))
    assert picture.shape == (8, 24, 3)
    assert (picture == (200, 30, 30)).all()


def test_a_node_that_fails_is_reported_in_its_own_words(
    server: HeadlessComfyUI, files: dict[str, bytes]
) -> None:
    worker = ComfyUIWorker(f"http://127.0.0.1:{server.port}")
    graph = {
        **GRAPH,
        "4": {"class_type": "ConceptLoomTinyWorldScene", "inputs": {
            "objects": "no such thing", "background": "white", "seed": 0, "size": 64}},
        "5": {"class_type": "PreviewImage", "inputs": {"images": ["4", 0]}},
    }  # fmt: skip
    with pytest.raises(InputError, match=r"TinyWorldScene.*no such thing"):
        worker.perform(
            JobKind.WORKFLOW, KEY, {"values": {}}, {**files, WORKFLOW: json.dumps(graph).encode()}
        )


def test_a_workflow_that_comfyui_rejects_is_reported(
    server: HeadlessComfyUI, files: dict[str, bytes]
) -> None:
    worker = ComfyUIWorker(f"http://127.0.0.1:{server.port}")
    with pytest.raises(InputError, match="rejects"):
        worker.perform(JobKind.WORKFLOW, KEY, {"values": {"2.width": -5}}, files)
