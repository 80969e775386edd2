"""Importing the pack costs nothing, and its metadata agrees with itself."""

from __future__ import annotations

import inspect
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import conceptloom

tomllib = pytest.importorskip("tomllib", reason="tomllib is Python 3.11 and newer")

# Loads the root as ComfyUI does, by path and under a name of its own; tells what came with it.
LOAD_BY_PATH = """
import importlib.util, json, sys, time
before = set(sys.modules)
began = time.perf_counter()
spec = importlib.util.spec_from_file_location("a_x_b", sys.argv[1] + "/__init__.py")
module = importlib.util.module_from_spec(spec)
sys.modules["a_x_b"] = module
spec.loader.exec_module(module)
print(json.dumps([time.perf_counter() - began, sorted(set(sys.modules) - before)]))
"""


@pytest.fixture(scope="module")
def project(root: Path) -> dict:
    return tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))


def test_loading_the_root_imports_nothing(root: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LOAD_BY_PATH, str(root)], capture_output=True, text=True, check=True
    )
    seconds, modules = json.loads(done.stdout)
    assert modules == ["a_x_b"]
    assert seconds < 0.1


def test_the_list_of_commands_loads_no_torch() -> None:
    code = "import conceptloom.cli.app, sys; print({'torch', 'numpy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_the_entry_point_is_a_coroutine_function() -> None:
    assert inspect.iscoroutinefunction(conceptloom.comfy_entrypoint)


def test_the_old_node_tables_are_absent() -> None:
    # with NODE_CLASS_MAPPINGS in the root ComfyUI never calls comfy_entrypoint
    assert not hasattr(conceptloom, "NODE_CLASS_MAPPINGS")


def test_the_version_is_written_once(project: dict) -> None:
    assert project["project"]["version"] == conceptloom.__version__


def test_the_web_directory_is_the_same_everywhere(project: dict) -> None:
    assert "./" + project["tool"]["comfy"]["web"] == conceptloom.WEB_DIRECTORY


def test_nodes_need_only_what_comfyui_brings(project: dict, root: Path) -> None:
    lines = (root / "requirements.txt").read_text(encoding="utf-8").splitlines()
    required = {line for line in lines if line and not line.startswith("#")}
    named = set(project["project"]["dependencies"])
    assert {line for line in named if not line.startswith("torch")} == required


def test_every_room_reaches_the_wheel(root: Path) -> None:
    from .source import PACKAGES

    setup = (root / "setup.py").read_text(encoding="utf-8")
    assert all(f'"{package}"' in setup for package in PACKAGES)
    folders = {path.parent.name for path in root.glob("*/__init__.py")}
    assert folders <= {*PACKAGES, "tests", "benchmarks"}


def test_githubs_workflow_runs_what_the_local_gate_runs(root: Path) -> None:
    gate = (root / ".ci" / "run").read_text(encoding="utf-8")
    targets = set(re.findall(r"make ([\w-]+) <", gate))
    assert targets == {"test", "test-comfyui"}
    workflow = (root / ".github" / "workflows" / "check.yml").read_text(encoding="utf-8")
    assert targets <= set(re.findall(r"- run: make ([\w-]+)", workflow))
