"""Concept files and saved states, byte by byte: refused in words, or what they were.

CONCEPTLOOM_TORTURE above 1 tries every value of every byte, as `benchmarks/run.py claims torture`
does.
"""

from __future__ import annotations

import base64
import json
import os
import random
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from conceptloom.concepts.concept import Concept, LowRank
from conceptloom.concepts.concept_file import load_concept, read_concept_info, save_concept
from conceptloom.concepts.tensor_file import write_document
from conceptloom.errors import ConceptFileError, TrainingError
from conceptloom.training.state_file import TrainingState, load_state, save_state

pytestmark = pytest.mark.usefixtures("quick_disk")

MORE = int(os.environ.get("CONCEPTLOOM_TORTURE", "1"))
FLIPS = range(1, 256) if MORE > 1 else (0x01, 0x20, 0x80, 0xFF)
MOST_BYTES = 64 * 2**20  # that the process may grow by; the files have a few kilobytes


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> None:
    """What libraries load when they are first used is none of the files' doing."""
    for make, read in KINDS.values():
        read(make(tmp_path_factory.mktemp("first")))


@pytest.fixture(autouse=True)
def modest_memory(loaded: None) -> Iterator[None]:
    """However large a file says that it is."""
    resource = pytest.importorskip("resource", reason="needs POSIX figures of memory")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < MOST_BYTES


def small_concept() -> Concept:
    """Everything that a header names, in as few bytes as that takes."""
    return Concept(
        handles={"x1": {"clip_l": torch.arange(4.0)[None]}},
        weights={"unet.out.2.weight": LowRank(torch.ones(3, 1), torch.ones(1, 3), 0.5)},
        base="b",
        method="m",
        prompts=("<x1>",),
        words={"x1": "cat"},
        seeds={"training": 1},
    )


def concept_file(folder: Path) -> Path:
    return save_concept(small_concept(), folder / "x.safetensors")


def state_file(folder: Path) -> Path:
    weight = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.AdamW([weight])
    weight.sum().backward()
    optimizer.step()
    state = TrainingState(
        step=1,
        parameters={"weight": weight.detach()},
        optimizer=optimizer.state_dict(),
        history=[{"step": 1, "total": 0.5}],
        more={"phase": 0},
    )
    save_state(state, folder / "s.safetensors", "key")
    return folder / "s.safetensors"


def as_text(value: Any) -> str:
    """Everything of a concept or state, to compare with."""
    torch.set_printoptions(profile="full")
    return repr(value)


Reader = Callable[[Path], Any]
KINDS: dict[str, tuple[Callable[[Path], Path], Reader]] = {
    "concept": (concept_file, load_concept),
    "state": (state_file, lambda path: load_state(path, "key")),
}


def all_refused_or_equal(
    folder: Path, contents: Iterable[bytes], read: Reader, whole: Any, area: str
) -> None:
    """Read each content from a file; nothing else than ConceptFileError may come of it."""
    path, tried, failures = folder / "torn.safetensors", 0, []
    for content in contents:
        path.write_bytes(content)
        tried += 1
        try:
            found = read(path)
            if whole is not None and as_text(found) != as_text(whole):
                failures.append(f"content {tried}: read as something else")
        except (ConceptFileError, TrainingError):  # a state of another run is told, too
            continue
        except BaseException as error:
            failures.append(f"content {tried}: {type(error).__name__}: {error}")
    if place := os.environ.get("CONCEPTLOOM_TORTURE_TALLY"):
        row = {"area": f"files/{area}", "cases": tried, "failures": failures}
        with open(place, "a") as file:
            file.write(json.dumps(row) + "\n")
    assert tried > 10
    assert not failures, "\n".join(failures[:20])


def header_end(content: bytes) -> int:
    return 8 + int.from_bytes(content[:8], "little")


@pytest.mark.parametrize("kind", KINDS)
def test_every_byte_of_a_header_may_be_any_other(tmp_path: Path, kind: str) -> None:
    make, read = KINDS[kind]
    whole = make(tmp_path).read_bytes()

    def torn() -> Iterator[bytes]:
        for position in range(header_end(whole)):
            for flip in FLIPS:
                yield whole[:position] + bytes([whole[position] ^ flip]) + whole[position + 1 :]

    expected = read(make(tmp_path))
    all_refused_or_equal(tmp_path, torn(), read, expected, f"{kind}, a byte of the header")


def test_a_look_into_a_torn_header_ends_in_words(tmp_path: Path) -> None:
    """What lists and previews read; its checksum is not looked at, so it may tell other things."""
    whole = concept_file(tmp_path).read_bytes()
    torn = (
        whole[:position] + bytes([whole[position] ^ flip]) + whole[position + 1 :]
        for position in range(header_end(whole))
        for flip in FLIPS
    )
    all_refused_or_equal(tmp_path, torn, read_concept_info, None, "concept, a look at the header")


@pytest.mark.parametrize("kind", KINDS)
def test_every_length_is_refused_but_the_whole(tmp_path: Path, kind: str) -> None:
    make, read = KINDS[kind]
    whole = make(tmp_path).read_bytes()
    step = 1 if MORE > 1 or len(whole) < 4000 else 3
    cut = [whole[:length] for length in range(0, len(whole), step)]
    longer = [whole + bytes(count) for count in (1, 2, 7, 8, 4096)]
    all_refused_or_equal(
        tmp_path, [*cut, *longer], read, read(make(tmp_path)), f"{kind}, another length"
    )


@pytest.mark.parametrize("kind", KINDS)
def test_bytes_lost_doubled_and_put_in(tmp_path: Path, kind: str) -> None:
    make, read = KINDS[kind]
    whole, dice = make(tmp_path).read_bytes(), random.Random(0)

    def torn() -> Iterator[bytes]:
        for _ in range(400 * MORE):
            a, b = sorted(dice.sample(range(len(whole)), 2))
            yield whole[:a] + whole[b:]
            yield whole[:b] + whole[a:]
            yield whole[:a] + dice.randbytes(dice.randrange(1, 9)) + whole[a:]
            yield whole[:a] + dice.randbytes(b - a) + whole[b:]

    expected = read(make(tmp_path))
    all_refused_or_equal(tmp_path, torn(), read, expected, f"{kind}, pieces moved")


@pytest.mark.parametrize("kind", KINDS)
def test_noise_behind_any_length(tmp_path: Path, kind: str) -> None:
    dice = random.Random(1)

    def noise() -> Iterator[bytes]:
        for _ in range(400 * MORE):
            length = dice.choice([0, 1, 8, 100, 2**20, 2**31, 2**40, 2**63, 2**64 - 1])
            yield length.to_bytes(8, "little") + dice.randbytes(dice.randrange(200))
            yield dice.randbytes(dice.randrange(40))

    all_refused_or_equal(tmp_path, noise(), KINDS[kind][1], None, f"{kind}, noise")


HUGE = [2**31, 2**40, 2**62, 2**63, 2**64, 10**30]


def test_headers_that_promise_terabytes(tmp_path: Path) -> None:
    """Shapes, places and counts of any size in a header that is otherwise sound."""
    whole = concept_file(tmp_path).read_bytes()
    end = header_end(whole)
    header, data = json.loads(whole[8:end]), whole[end:]

    def promised() -> Iterator[bytes]:
        for name in [name for name in header if name != "__metadata__"]:
            for size in HUGE:
                for changes in (
                    {"shape": [size]},
                    {"shape": [size, size]},
                    {"shape": [size, 0]},
                    {"shape": [1] * 70},
                    {"data_offsets": [0, size]},
                    {"data_offsets": [size, size]},
                    {"shape": [size // 4], "data_offsets": [0, size]},
                ):
                    text = json.dumps({**header, name: {**header[name], **changes}}).encode()
                    yield len(text).to_bytes(8, "little") + text + data

    all_refused_or_equal(tmp_path, promised(), load_concept, None, "concept, huge promises")


def test_pictures_that_promise_gigabytes(tmp_path: Path) -> None:
    """A thumbnail of a few bytes that says it is 60000 px wide, in a file with a sound checksum."""
    document = {
        "base": "b", "format": "concept", "history": {}, "method": "m", "prompts": [], "recipe": {},
        "scales": {}, "seeds": {}, "version": 1, "words": {},
    }  # fmt: skip
    path = tmp_path / "bomb.safetensors"
    for width, height in ((60_000, 60_000), (2**31 - 1, 1), (1, 2**31 - 1), (16_000, 16_000)):
        thumbnail = base64.b64encode(_png(width, height)).decode()
        write_document(
            path, {"handle.x1.clip_l": torch.ones(1, 4)}, {**document, "thumbnail": thumbnail}
        )
        with pytest.raises(ConceptFileError, match="thumbnail"):
            load_concept(path)


def _png(width: int, height: int) -> bytes:
    """A picture of one colour that says it is this large and holds a megabyte of zeros at most."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    size = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        [chunk(b"IHDR", size), chunk(b"IDAT", zlib.compress(bytes(2**20), 9)), chunk(b"IEND", b"")]
    )


def test_the_comparison_can_tell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another value in a tensor would be seen; else every test above proves nothing."""
    other = replace(small_concept(), handles={"x1": {"clip_l": torch.zeros(1, 4)}})
    assert as_text(other) != as_text(small_concept())
    path = save_concept(other, tmp_path / "other.safetensors")
    contents = [path.read_bytes()] * 11
    monkeypatch.delenv("CONCEPTLOOM_TORTURE_TALLY", raising=False)  # these failures are wanted
    with pytest.raises(AssertionError, match="something else"):
        all_refused_or_equal(tmp_path, contents, load_concept, small_concept(), "itself")
