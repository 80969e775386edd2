"""Concept files with damaged bytes or a hostile header: refused, with one kind of error."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conceptloom.concepts.concept_file import load_concept, read_concept_info
from conceptloom.concepts.tensor_file import KEY
from conceptloom.errors import ConceptFileError

from .concept_file_cases import FUZZ, sound_document

pytestmark = pytest.mark.usefixtures("quick_disk")


@settings(max_examples=150, **FUZZ)
@given(share=st.floats(0, 1, exclude_max=True))
def test_truncated_files_are_refused(saved: Path, share: float) -> None:
    content = saved.read_bytes()
    cut = saved.with_name("cut.safetensors")
    cut.write_bytes(content[: int(share * len(content))])
    with pytest.raises(ConceptFileError):
        load_concept(cut)
    with pytest.raises(ConceptFileError):
        read_concept_info(cut)


@settings(max_examples=400, **FUZZ)
@given(data=st.data())
def test_a_changed_byte_is_noticed(saved: Path, data: st.DataObject) -> None:
    content = bytearray(saved.read_bytes())
    # Half of the trials in the header, which is what a parser has to survive.
    header = 8 + int.from_bytes(content[:8], "little")
    end = data.draw(st.sampled_from([header, len(content)]))
    position = data.draw(st.integers(0, end - 1))
    content[position] ^= data.draw(st.integers(1, 255))
    broken = saved.with_name("broken.safetensors")
    broken.write_bytes(content)
    with pytest.raises(ConceptFileError):
        load_concept(broken)


@settings(max_examples=200, **FUZZ)
@given(content=st.binary(max_size=300), length=st.none() | st.integers(0, 400))
def test_noise_is_refused(tmp_path: Path, content: bytes, length: int | None) -> None:
    path = tmp_path / "noise.safetensors"
    path.write_bytes(content if length is None else length.to_bytes(8, "little") + content)
    with pytest.raises(ConceptFileError):
        load_concept(path)


def entry(text: bytes) -> bytes:
    return b'{"__metadata__": {"conceptloom": "{}"}, "a": ' + text + b"}"


def raw(path: Path, header: bytes, data: bytes = b"", length: int | None = None) -> Path:
    path.write_bytes(
        (len(header) if length is None else length).to_bytes(8, "little") + header + data
    )
    return path


@pytest.mark.parametrize(
    "header",
    [
        b"[]",
        b"{}",
        b"null",
        b"{" * 5000,
        b'{"a":' * 5000 + b"1" + b"}" * 5000,
        b'{"__metadata__": 3}',
        b'{"__metadata__": {"conceptloom": 3}}',
        b'{"__metadata__": {"conceptloom": "[]"}}',
        b'{"__metadata__": {"conceptloom": "{}"}, "a": 3}',
        entry(b'{"dtype": [], "shape": [], "data_offsets": [0, 0]}'),
        entry(b'{"dtype": "F32", "shape": [-1], "data_offsets": [0, 0]}'),
        entry(b'{"dtype": "F32", "shape": [1], "data_offsets": [9, 1]}'),
        entry(b'{"dtype": "F32", "shape": [99999999999], "data_offsets": [0, 4]}'),
        entry(b'{"dtype": "F32", "shape": [true], "data_offsets": [0, 4]}'),
        entry(b'{"dtype": "F32", "shape": {}, "data_offsets": [0, 4]}'),
        b'{"__metadata__": {"conceptloom": "' + b"9" * 5000 + b'"}}',
        b"\xff\xfe",
    ],
)
def test_hostile_headers_are_refused(tmp_path: Path, header: bytes) -> None:
    with pytest.raises(ConceptFileError):
        load_concept(raw(tmp_path / "x.safetensors", header))


@pytest.mark.parametrize("length", [2**63, 2**64 - 1, 10**9, 5])
def test_a_header_longer_than_the_file_is_refused(tmp_path: Path, length: int) -> None:
    with pytest.raises(ConceptFileError):
        load_concept(raw(tmp_path / "x.safetensors", b"{}", length=length))


def test_overlapping_tensors_are_refused(tmp_path: Path) -> None:
    document = json.dumps({**sound_document(), "sha256": ""})
    both = {"dtype": "F32", "shape": [1, 2], "data_offsets": [0, 8]}
    header = {
        "__metadata__": {KEY: document},
        "handle.a.clip_l": both,
        "handle.b.clip_l": both,
    }
    with pytest.raises(ConceptFileError):
        load_concept(raw(tmp_path / "x.safetensors", json.dumps(header).encode(), b"\0" * 8))
