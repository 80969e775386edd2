"""A real ComfyUI and a real browser in front of it."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "scripts"))

from browser import Chromium, missing  # noqa: E402
from editor import Editor  # noqa: E402
from headless import HeadlessComfyUI  # noqa: E402

COMFYUI = Path(os.environ.get("COMFYUI_PATH") or "~/comfy/ComfyUI").expanduser()
if not (COMFYUI / "main.py").is_file():
    pytest.skip("ComfyUI was not found; set COMFYUI_PATH to its folder", allow_module_level=True)
if missing():
    pytest.skip(f"install {' and '.join(missing())}", allow_module_level=True)
# Kept for people to look at; git ignores runs/.
SCREENSHOTS = ROOT / "runs" / "screenshots"


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HeadlessComfyUI]:
    with HeadlessComfyUI(COMFYUI.resolve(), tmp_path_factory.mktemp("comfyui")) as running:
        yield running


@pytest.fixture(scope="session")
def chromium() -> Iterator[Chromium]:
    with Chromium() as browser:
        yield browser


@pytest.fixture(scope="session")
def editor(server: HeadlessComfyUI, chromium: Chromium) -> Editor:
    return Editor(server, chromium)


@pytest.fixture(scope="session")
def screenshots() -> Path:
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    return SCREENSHOTS
