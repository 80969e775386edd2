"""One real, headless ComfyUI for all workflows."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "scripts"))  # the helpers that also build the workflows

from headless import HeadlessComfyUI  # noqa: E402

COMFYUI = Path(os.environ.get("COMFYUI_PATH") or "~/comfy/ComfyUI").expanduser()
if not (COMFYUI / "main.py").is_file():
    pytest.skip("ComfyUI was not found; set COMFYUI_PATH to its folder", allow_module_level=True)


@pytest.fixture(scope="session")
def comfyui() -> Path:
    return COMFYUI.resolve()


@pytest.fixture(scope="session")
def server(comfyui: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[HeadlessComfyUI]:
    with HeadlessComfyUI(comfyui, tmp_path_factory.mktemp("comfyui")) as running:
        yield running
