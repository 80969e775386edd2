"""Disks that are really too small: the kernel refuses, and what was learned survives."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from conceptloom.concepts.concept_file import load_concept

from .full_disk_run import digest_of, learned_in

pytestmark = [
    pytest.mark.usefixtures("quick_disk"),
    pytest.mark.skipif(sys.platform == "win32", reason="limits of POSIX"),
]
RUN = (sys.executable, "-m", "tests.unit.training.full_disk_run")
NAMESPACE = ("unshare", "--user", "--map-root-user", "--mount")


@dataclass(frozen=True)
class Whole:
    """The same run on a disk with room."""

    digest: str
    state_bytes: int
    concept_bytes: int


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Whole:
    folder = tmp_path_factory.mktemp("whole")
    result = learned_in(folder)
    (state,) = folder.rglob("state-*.safetensors")
    concept = folder / "concept.safetensors"
    return Whole(str(result["digest"]), state.stat().st_size, concept.stat().st_size)


def in_a_process(root: Path, *command: object) -> tuple[dict[str, Any], str]:
    done = subprocess.run(
        [str(part) for part in command], cwd=root, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1]), done.stderr


def test_a_limit_of_the_kernel_costs_the_file_and_not_the_concept(
    root: Path, tmp_path: Path, whole: Whole
) -> None:
    result, told = in_a_process(root, *RUN, tmp_path, whole.concept_bytes // 2)
    assert result["digest"] == whole.digest
    assert result["path"] == ""
    assert result["trouble"]
    assert result["states"] == []
    assert "in memory only" in told
    assert not list(tmp_path.rglob("*.part")), "nothing half written is left"


def small_disk(size: int, place: Path) -> Sequence[object]:
    """A command in front of another, which then sees a disk of so many bytes at a place."""
    mount = f'mount -t tmpfs -o size={size} tmpfs "$0" && exec "$@"'
    return *NAMESPACE, "sh", "-c", mount, place


@pytest.fixture(scope="module")
def can_mount(tmp_path_factory: pytest.TempPathFactory) -> None:
    """A namespace of one's own, where anybody may mount."""
    place = tmp_path_factory.mktemp("disk")
    if not shutil.which(NAMESPACE[0]):
        pytest.skip("there is no unshare")
    tried = subprocess.run([str(p) for p in (*small_disk(2**16, place), "true")], check=False)
    if tried.returncode:
        pytest.skip("this system lends no namespaces to mount in")


@pytest.mark.usefixtures("can_mount")
def test_older_states_give_way_to_newer_ones_and_all_to_the_concept(
    root: Path, tmp_path: Path, whole: Whole
) -> None:
    """Room for two states and half a concept."""
    place, kept = tmp_path / "disk", tmp_path / "kept.safetensors"
    place.mkdir()
    size = 2 * whole.state_bytes + whole.concept_bytes // 2
    keeping = '"$@" && cp "$0/concept.safetensors" "$KEPT"'
    result, told = in_a_process(
        root, "env", f"KEPT={kept}", *small_disk(size, place), "sh", "-c", keeping, place,
        *RUN, place,
    )  # fmt: skip
    assert result["digest"] == whole.digest == digest_of(load_concept(kept))
    assert result["path"] == str(place / "concept.safetensors")
    assert result["trouble"] == ""
    assert "The disk is full: deleting" in told


@pytest.mark.usefixtures("can_mount")
def test_a_disk_without_room_for_the_concept_leaves_it_in_memory(
    root: Path, tmp_path: Path, whole: Whole
) -> None:
    place = tmp_path / "disk"
    place.mkdir()
    result, told = in_a_process(root, *small_disk(whole.concept_bytes // 2, place), *RUN, place)
    assert result["digest"] == whole.digest
    assert result["path"] == ""
    assert "the disk is full" in result["trouble"]
    assert "in memory only" in told
