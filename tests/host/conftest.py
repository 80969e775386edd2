"""ComfyUI for the host tests: found, set to the CPU, and given tiny models of its real classes."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest


def _find_comfyui() -> Path | None:
    for place in (os.environ.get("COMFYUI_PATH"), "~/comfy/ComfyUI"):
        if place and (Path(place).expanduser() / "comfy" / "model_base.py").is_file():
            return Path(place).expanduser().resolve()
    return None


COMFYUI = _find_comfyui()
if COMFYUI is None:
    pytest.skip("ComfyUI was not found; set COMFYUI_PATH to its folder", allow_module_level=True)
sys.path.insert(0, str(COMFYUI))
sys.argv = sys.argv[:1]  # ComfyUI reads the command line when it is imported

from comfy.cli_args import args as comfy_args  # noqa: E402

if not os.environ.get("CONCEPTLOOM_TEST_GPU"):
    comfy_args.cpu = True
