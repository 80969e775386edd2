"""ComfyUI for the host tests: found, set to the CPU, and given tiny models of its real classes."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

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
sys.path.append(str(Path(__file__).parent))  # the helpers beside the tests
sys.argv = sys.argv[:1]  # ComfyUI reads the command line when it is imported

from comfy.cli_args import args as comfy_args  # noqa: E402

if not os.environ.get("CONCEPTLOOM_TEST_GPU"):
    comfy_args.cpu = True

import folder_paths  # noqa: E402
import torch  # noqa: E402
from executor import Executor  # noqa: E402
from scene_graphs import train  # noqa: E402
from tiny_models import FAMILIES, Graph, graph_of  # noqa: E402

from conceptloom.host.comfyui.host import ComfyHost  # noqa: E402

torch.set_num_threads(1)  # in models this small, threads only wait for each other


@pytest.fixture(autouse=True)
def inference_mode():
    """Every node runs in it."""
    with torch.inference_mode():
        yield


@pytest.fixture(params=list(FAMILIES))
def family(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def graph(family: str) -> Graph:
    return graph_of(family)


@pytest.fixture
def sd1() -> Graph:
    return graph_of("sd1")


@pytest.fixture
def host(graph: Graph) -> ComfyHost:
    return ComfyHost(graph.model, graph.clip, graph.vae)


@pytest.fixture(scope="module")
def executor() -> Executor:
    return Executor()


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, executor: Executor) -> Path:
    """ComfyUI's folders, all of them empty; the pack registers its own in `executor`."""
    known = dict(folder_paths.folder_names_and_paths)
    for kind in ("concepts", "loras", "embeddings"):
        place = tmp_path / "models" / kind
        place.mkdir(parents=True)
        monkeypatch.setitem(known, kind, ([str(place)], {".safetensors"}))
    monkeypatch.setattr(folder_paths, "folder_names_and_paths", known)
    monkeypatch.setattr(folder_paths, "output_directory", str(tmp_path / "output"))
    monkeypatch.setattr(folder_paths, "temp_directory", str(tmp_path / "temp"))
    folder_paths.filename_list_cache.clear()
    return tmp_path


@pytest.fixture(scope="module")
def learned(executor: Executor, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A concept of a short run."""
    place = str(tmp_path_factory.mktemp("learned"))
    folder_paths.output_directory, before = place, folder_paths.output_directory
    try:
        result = train(executor, graph_of("sd1"))
    finally:
        folder_paths.output_directory = before
    assert result.error == ""
    return result.values["concept"]


@pytest.fixture
def messages(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """What a running server was asked to show on nodes: (text, node)."""
    sent: list[tuple[str, str]] = []
    server = SimpleNamespace(send_progress_text=lambda text, node: sent.append((text, node)))
    module = SimpleNamespace(PromptServer=SimpleNamespace(instance=server))
    monkeypatch.setitem(sys.modules, "server", module)  # type: ignore[arg-type]
    return sent
