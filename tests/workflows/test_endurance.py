"""Many runs in one server, and two servers on one models folder.

CONCEPTLOOM_TORTURE above 1 queues 200 runs, as `benchmarks/run.py claims torture` does.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any

import pytest
from headless import HeadlessComfyUI

from conceptloom.concepts.concept_file import load_concept

from .graphs import api

MANY = int(os.environ.get("CONCEPTLOOM_TORTURE", "1")) > 1
RUNS = 200 if MANY else 10
TOGETHER = 6 if MANY else 2  # runs of each of two servers
# A quarter of the runs is left out: libraries load, and allocators fill their pools.
GROWTH = 1.02 if MANY else 1.1
SETTINGS = {
    "token_steps": 2, "weight_steps": 2, "steps": 3, "preview_every": 0, "preview_steps": 2,
    "prior_pictures": 2, "prior_sampling_steps": 2, "batch_size": 1, "keep_state": False,
}  # fmt: skip
QUEUED = ("18-two-loras", "1-learn-a-scene", "20-lora-beside-a-concept", "6-two-concepts-with-lag")


def tally(area: str, cases: int, failures: list[str]) -> None:
    if place := os.environ.get("CONCEPTLOOM_TORTURE_TALLY"):
        with open(place, "a") as file:
            file.write(json.dumps({"area": area, "cases": cases, "failures": failures}) + "\n")


def short(name: str, number: int) -> dict[str, Any]:
    """A workflow with few steps and with seeds of its own, so that nothing comes from a cache."""
    graph = api(name)
    for node in graph.values():
        for key, value in node["inputs"].items():
            last = key.rpartition(".")[2]
            if last in SETTINGS:
                node["inputs"][key] = SETTINGS[last]
            elif last == "seed" and not isinstance(value, list):
                node["inputs"][key] = number
    return graph


def resident(server: HeadlessComfyUI) -> float:
    """Megabytes of a server's own memory, without what it has mapped from files."""
    assert server.pid is not None
    for line in Path(f"/proc/{server.pid}/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) / 1024
    raise AssertionError("no RssAnon in /proc")


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="needs figures of /proc")
def test_memory_stays_flat_over_many_runs(
    comfyui: Path, tmp_path: Path, record_property: Any
) -> None:
    sizes: list[float] = []
    failures: list[str] = []
    with HeadlessComfyUI(comfyui, tmp_path) as server:
        for number in range(RUNS):
            try:
                server.run(short(QUEUED[number % len(QUEUED)], number))
            except RuntimeError as error:
                failures.append(f"run {number}: {error}")
            if number % len(QUEUED) == len(QUEUED) - 1:
                sizes.append(resident(server))
    steady = sizes[len(sizes) // 4 :]
    tenth = max(1, len(steady) // 10)
    first, last = median(steady[:tenth]), median(steady[-tenth:])
    record_property("megabytes", [round(size, 1) for size in sizes])
    if last > GROWTH * first:
        failures.append(f"memory grew from {first:.0f} to {last:.0f} MB: {sizes}")
    area = f"servers/{RUNS} runs in one server: {first:.0f} MB after a quarter, {last:.0f} at last"
    tally(area, RUNS, failures)
    assert not failures, failures


@pytest.fixture
def two_servers(comfyui: Path, tmp_path: Path) -> Iterator[tuple[HeadlessComfyUI, HeadlessComfyUI]]:
    (tmp_path / "models").mkdir()
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "models").symlink_to(tmp_path / "models", target_is_directory=True)
    with (
        HeadlessComfyUI(comfyui, tmp_path / "first") as first,
        HeadlessComfyUI(comfyui, tmp_path / "second") as second,
    ):
        yield first, second


def use(name: str, number: int) -> dict[str, Any]:
    """A concept of the models folder, applied."""
    graph = short("20-lora-beside-a-concept", number)
    inputs = {"concept_name": name, "rename": ""}
    graph["concept"] = {"class_type": "ConceptLoomLoadConcept", "inputs": inputs}
    graph["told"] = {"class_type": "PreviewAny", "inputs": {"source": ["concept", 1]}}
    return graph


def test_two_servers_share_a_models_folder(
    two_servers: tuple[HeadlessComfyUI, HeadlessComfyUI], tmp_path: Path
) -> None:
    """Both write concepts of the same names again and again while both read one: always whole."""
    failures: list[str] = []

    def work(which: int) -> None:
        server = two_servers[which]
        for number in range(TOGETHER):
            try:
                server.run(short("1-learn-a-scene", 100 * which + number))
                server.run(use("mug-and-fish.safetensors", number))
            except RuntimeError as error:
                failures.append(f"server {which}, run {number}: {str(error)[:500]}")

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(work, range(2)))
    concepts = tmp_path / "models" / "concepts"
    files = sorted(file.name for file in concepts.rglob("*") if file.is_file())
    if files != ["mug-and-fish.safetensors", "rusty.safetensors"]:  # one of each workflow
        failures.append(f"in the folder: {files}")
    assert all(load_concept(concepts / file).names for file in files)
    tally("servers/two servers on one models folder", 4 * TOGETHER, failures)
    assert not failures, failures
