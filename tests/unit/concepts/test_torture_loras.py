"""LoRA files of every kind changed at random: they load, or an error of ours says what is wrong.

CONCEPTLOOM_TORTURE above 1 tries 100,000 files, as `benchmarks/run.py claims torture` does.
"""

from __future__ import annotations

import json
import os
import random
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch

from conceptloom.attention.local_lora import LocalLora
from conceptloom.attention.local_setup import local_setup, shapes_of
from conceptloom.concepts.concept_file import load_concept, save_concept
from conceptloom.concepts.lora_concept import concept_of_lora
from conceptloom.concepts.lora_dense import resolved
from conceptloom.concepts.lora_file import lora_of, read_lora
from conceptloom.concepts.lora_forms import Computed
from conceptloom.concepts.lora_keys import key_map
from conceptloom.concepts.lora_metadata import picture_of, words_of
from conceptloom.errors import ConceptLoomError

from ..lora_kinds import MORE_KINDS, Targets, some_file
from ..lora_mutations import MUTATIONS, content_of
from ..tiny_transformers import random_file

pytest.importorskip("diffusers")
pytestmark = pytest.mark.usefixtures("quick_disk")

TOTAL = 100_000 if int(os.environ.get("CONCEPTLOOM_TORTURE", "1")) > 1 else 1_200
FAMILIES = ("unet", "anima", "zimage")
EACH = -(-TOTAL // (len(FAMILIES) * len(MUTATIONS)))
SAVED = 7  # one in so many files that load is saved as a concept and read again
SECONDS = 20  # after which a file hangs
MOST_BYTES = 256 * 2**20  # that the process may grow by; the files have some 100 kilobytes
LONGEST = 2_000  # characters of a message


class Hangs(BaseException):
    """A file took too long."""


@dataclass(frozen=True, slots=True)
class Base:
    """A base model, and what all of its files need to know once."""

    host: Any
    names: Targets
    shape_of: Callable[[str], Any]


@pytest.fixture
def folder() -> Iterator[Path]:
    """In memory where the system has such a place: disks are slow, and files are many."""
    memory = Path("/dev/shm")
    with TemporaryDirectory(dir=memory if memory.is_dir() else None) as place:
        yield Path(place)


@pytest.fixture(scope="module", params=FAMILIES)
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Base:
    from conceptloom.host.diffusers.host import DiffusersHost

    if request.param == "unet":
        host: Any = DiffusersHost.tinyworld()
    else:
        host = transformer_host(request.param, tmp_path_factory.mktemp("world"))
    known = set(host.weight_names())
    return Base(host, key_map(known, host.sites, host.encoders), shapes_of(host, known))


def transformer_host(family: str, folder: Path) -> Any:
    from conceptloom.cli.models import open_host
    from conceptloom.tinyworld.dit import checkpoint

    file = random_file(family, folder / "world.safetensors")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint, "CHECKPOINTS", {family: file})
        return open_host(f"tinyworld-{family}")


def read(base: Base, path: Path, is_saved: bool = True) -> None:
    """Everything that the nodes and the command do with a LoRA file before they draw."""
    tensors, metadata = read_lora(path)
    words, thumbnail = words_of(metadata), picture_of(path, metadata)
    file = lora_of(tensors, base.names, base.shape_of, path.name)
    for name, form in file.changes.items():
        if isinstance(form, Computed):
            form = resolved(form, base.host.weight(name).float(), 0.7)
        assert form.delta(base.shape_of(name)).shape == base.shape_of(name)
    told = "red circle"
    lora = LocalLora(file=file, name=path.name, words=told, tokens=base.host.tokenize(told))
    local_setup(base.host, [lora])
    if base.host.sites.joint is None:
        concept = concept_of_lora(
            base.host, file, words, words=told, file_name=path.name, thumbnail=thumbnail
        )
        if is_saved:
            saved = save_concept(concept, path.with_name(f"{concept.names[0]}.saved.safetensors"))
            load_concept(saved)
            saved.unlink()


@contextmanager
def limits() -> Iterator[None]:
    """Neither more memory nor more time than a sound file needs, many times over."""
    resource = pytest.importorskip("resource", reason="needs POSIX limits and timers")
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    before = resource.getrlimit(resource.RLIMIT_AS)
    limit = pages * resource.getpagesize() + MOST_BYTES

    def ring(*_: object) -> None:
        raise Hangs

    old = signal.signal(signal.SIGALRM, ring)
    resource.setrlimit(resource.RLIMIT_AS, (limit, before[1]))
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, old)
        resource.setrlimit(resource.RLIMIT_AS, before)


def problem_of(base: Base, path: Path, is_saved: bool = True) -> str:
    """What is wrong with what came of a file; "" if it loads or one of our errors says why not."""
    signal.alarm(SECONDS)
    try:
        read(base, path, is_saved)
    except ConceptLoomError as error:
        message = str(error)
        if not 30 <= len(message) <= LONGEST:
            return f"a message of {len(message)} characters: {message[:200]!r}"
        odd = [letter for letter in message if not letter.isprintable() and letter != "\n"]
        return f"a message with {odd[:5]!r}: {message[:200]!r}" if odd else ""
    except BaseException as error:
        return f"{type(error).__name__}: {str(error)[:300]}"
    finally:
        signal.alarm(0)
    return ""


def sound_files(base: Base, dice: random.Random) -> Iterator[tuple[str, dict[str, torch.Tensor]]]:
    """Files of every kind in turn."""
    while True:
        for kind in MORE_KINDS:
            yield kind, some_file(kind, base.names, base.shape_of, dice)


@pytest.mark.parametrize("kind", MORE_KINDS)
def test_sound_files_load(base: Base, tmp_path: Path, kind: str) -> None:
    """What is changed below is sound before."""
    path = tmp_path / "sound.safetensors"
    for seed in range(5):
        tensors = some_file(kind, base.names, base.shape_of, random.Random(seed))
        path.write_bytes(content_of(tensors, {"ss_output_name": "x"}))
        read(base, path)


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_a_changed_file_loads_or_an_error_of_ours_says_why_not(
    base: Base, folder: Path, mutation: str
) -> None:
    dice = random.Random(f"{base.host.fingerprint} {mutation}")
    path, failures = folder / "loras" / "changed.safetensors", list[str]()
    path.parent.mkdir()
    with limits():
        for number, (kind, tensors) in zip(range(EACH), sound_files(base, dice), strict=False):
            path.write_bytes(MUTATIONS[mutation](tensors, dice))
            if problem := problem_of(base, path, number % SAVED == 0):
                failures.append(f"{kind}: {problem}")
    written = {str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()}
    if written - {"loras/changed.safetensors"}:
        failures.append(f"files of its own: {sorted(written)[:5]}")
    tally(f"loras/{base.host.sites.family or 'unet'}, {mutation}", failures)
    assert not failures, f"{len(failures)} failures\n" + "\n".join(sorted(set(failures))[:40])


def tally(area: str, failures: list[str]) -> None:
    if place := os.environ.get("CONCEPTLOOM_TORTURE_TALLY"):
        with open(place, "a") as file:
            file.write(json.dumps({"area": area, "cases": EACH, "failures": failures[:20]}) + "\n")


def test_the_limits_can_tell(base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that brings down memory, hangs or fails otherwise would be seen."""
    path = tmp_path / "x.safetensors"
    with limits():
        monkeypatch.setattr(f"{__name__}.read", lambda *_: torch.empty(2**30))
        assert "RuntimeError" in problem_of(base, path) or "MemoryError" in problem_of(base, path)
        monkeypatch.setattr(f"{__name__}.SECONDS", 1)
        monkeypatch.setattr(f"{__name__}.read", lambda *_: all(True for _ in iter(int, 1)))
        assert "Hangs" in problem_of(base, path)
        monkeypatch.setattr(f"{__name__}.read", lambda *_: {}["key"])
        assert "KeyError" in problem_of(base, path)
