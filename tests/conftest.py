"""What every test may count on: the pack is importable as `conceptloom`, its root is a fixture."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# Collecting these needs ComfyUI; scripts/test-comfyui says where it is.
collect_ignore = [] if os.environ.get("COMFYUI_PATH") else ["browser", "host", "workflows"]


def _load_by_path() -> None:
    """ComfyUI's Python has no `conceptloom` installed; give it the one that lies here."""
    spec = importlib.util.spec_from_file_location(
        "conceptloom", ROOT / "__init__.py", submodule_search_locations=[str(ROOT)]
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["conceptloom"] = module
    spec.loader.exec_module(module)


if importlib.util.find_spec("conceptloom") is None:
    _load_by_path()


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
