"""Tests as benchmarks run them: those of the library here, those of the nodes inside of ComfyUI."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# This repository has a nodes/ of its own and must stay off the path, as scripts/test-comfyui says.
PYTEST = (
    "import sys; sys.path[:] = [e for e in sys.path if e]; import pytest; "
    "sys.exit(pytest.main(sys.argv[1:]))"
)
QUIET = ("-c", "pyproject.toml", "-p", "no:cacheprovider", "-W", "default", "-q", "--tb=line")


def host_python() -> tuple[Path, str] | None:
    """ComfyUI's folder and the Python that it runs in; None where there is none."""
    found = subprocess.run(["scripts/find-comfyui"], cwd=ROOT, capture_output=True, text=True)
    if found.returncode:
        return None
    folder = Path(found.stdout.strip())
    named = subprocess.run(
        ["scripts/comfyui-python", str(folder)], cwd=ROOT, capture_output=True, text=True
    )
    return folder, named.stdout.strip()


def passes(
    tests: Sequence[str],
    *options: str,
    host: tuple[Path, str] | None = None,
    environment: Mapping[str, str] | None = None,
) -> bool:
    """Whether tests pass.

    Args:
        options: more of pytest's.
        host: where they run, as `host_python` says it; None: here.
    """
    interpreter, place = (host[1], {"COMFYUI_PATH": str(host[0])}) if host else (sys.executable, {})
    command = [interpreter, "-c", PYTEST, *QUIET, *tests, *options]
    threads = {"OMP_NUM_THREADS": "1"}  # tiny models lose more by sharing work than they win
    given = os.environ | threads | place | dict(environment or {})
    return subprocess.run(command, cwd=ROOT, env=given, check=False).returncode == 0


def comfyui_python() -> str:
    """ComfyUI's Python, for workers that need it; COMFYUI_PATH is set for them.

    Raises:
        SystemExit: there is no ComfyUI.
    """
    host = host_python()
    if host is None:
        raise SystemExit("No ComfyUI found; set COMFYUI_PATH to its folder.")
    os.environ["COMFYUI_PATH"] = str(host[0])
    return host[1]
