"""What every test may count on: the pack is importable as `conceptloom`, its root is a fixture."""

from __future__ import annotations

import os
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# Collecting these needs ComfyUI; scripts/test-comfyui says where it is.
collect_ignore = [] if os.environ.get("COMFYUI_PATH") else ["browser", "host", "workflows"]


runpy.run_path(str(ROOT / "scripts" / "own_pack.py"))


@pytest.fixture(scope="session")
def root() -> Path:
    """Root of the repository, which is also the package."""
    return ROOT


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    gpu_items = [item for item in items if item.get_closest_marker("gpu")]
    if not gpu_items:
        return
    import torch

    if not torch.cuda.is_available():
        for item in gpu_items:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))
