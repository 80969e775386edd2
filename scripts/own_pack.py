"""Makes this pack importable as `conceptloom` in ComfyUI's Python, which has it not installed."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

if importlib.util.find_spec("conceptloom") is None:
    spec = importlib.util.spec_from_file_location(
        "conceptloom", ROOT / "__init__.py", submodule_search_locations=[str(ROOT)]
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["conceptloom"] = module
    spec.loader.exec_module(module)
