"""Folders, an executor and limits that the torture tests share."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import folder_paths
import pytest

pytest.importorskip("hypothesis")
sys.path.append(str(Path(__file__).parent))  # the helpers beside the tests

from executor import Executor
from tiny_models import FAMILIES, assert_same_state, graph_of, state_of

SPARE = 6 * 2**30  # bytes that a case may ask for, far more than any needs

# What binds the whole process lasts for one file: other tests of the same run need the network.


@pytest.fixture(scope="module", autouse=True)
def bounded_memory() -> Iterator[None]:
    """A case that asks for terabytes shall be refused here and not bring the machine down."""
    resource = pytest.importorskip("resource", reason="needs POSIX limits and timers")
    pages = int(Path("/proc/self/statm").read_text().split()[0]) if os.path.exists("/proc") else 0
    before = resource.getrlimit(resource.RLIMIT_AS)
    if pages:
        limit = pages * resource.getpagesize() + SPARE
        resource.setrlimit(resource.RLIMIT_AS, (limit, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


@pytest.fixture(scope="module", autouse=True)
def no_network() -> Iterator[None]:
    """A node that downloads when asked to shall not do so here."""

    def refuse(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "no network in this test")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket, "getaddrinfo", refuse)
        yield


@pytest.fixture(scope="session")
def executor() -> Executor:
    return Executor()


@pytest.fixture(scope="session", autouse=True)
def core_nodes() -> None:
    """The samplers that a user connects."""
    import asyncio

    import nodes

    asyncio.run(nodes.init_builtin_extra_nodes())


@pytest.fixture(scope="module", autouse=True)
def folders(tmp_path_factory: pytest.TempPathFactory, executor: Executor) -> Iterator[Path]:
    """ComfyUI's folders: empty but for one concept; outside of them nothing may appear."""
    from materials import concept, lab_folders, pack

    root = tmp_path_factory.mktemp("comfyui")
    with pytest.MonkeyPatch.context() as patch:
        known = dict(folder_paths.folder_names_and_paths)
        for kind in ("concepts", "loras", "embeddings", "diffusion_priors", "vqa", "detectors"):
            place = root / "models" / kind
            place.mkdir(parents=True)
            patch.setitem(known, kind, ([str(place)], {".safetensors"}))
        patch.setattr(folder_paths, "folder_names_and_paths", known)
        for kind in ("output", "temp", "input"):
            (root / kind).mkdir()
            patch.setattr(folder_paths, f"{kind}_directory", str(root / kind))
        folder_paths.filename_list_cache.clear()
        if find_spec("diffusers"):
            lab_folders(root / "models")
        good = root / "models" / "concepts" / "good.safetensors"
        pack("concepts.concept_file").save_concept(concept(), good)
        pack("concepts.lora_export").export_lora(concept(), root / "models" / "loras" / good.name)
        yield root
    folder_paths.filename_list_cache.clear()


@pytest.fixture(scope="module", autouse=True)
def models_stay_as_they_are(folders: Path) -> Iterator[None]:
    """Bit for bit and without a hook, over all cases of all nodes."""
    from materials import inpainting, tinyworld, transformer

    graphs = [*(vars(graph_of(family)) for family in FAMILIES), tinyworld()]
    graphs += [{**graphs[0], "model": model} for model in (inpainting(), transformer())]
    before = [
        (patcher, state_of(patcher))
        for graph in graphs
        for patcher in (graph["model"], graph["clip"].patcher, graph["vae"].patcher)
    ]
    yield
    for patcher, state in before:
        assert_same_state(patcher, state)
