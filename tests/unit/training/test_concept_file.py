"""Concept files: same content, same bytes; what is not sound is refused, and named."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass, field, fields, replace
from enum import Enum
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from conceptloom.errors import ConceptFileError, StorageError
from conceptloom.training import paths
from conceptloom.training.concept import Concept, Diff, LowRank
from conceptloom.training.concept_file import (
    load_concept,
    read_concept_info,
    recipe_of,
    save_concept,
)
from conceptloom.training.tensor_file import KEY, write_document, write_tensors

from .fake_host import some_concept

FUZZ: Any = {
    "deadline": None,
    "suppress_health_check": [HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
}


@pytest.fixture(autouse=True)
def quick_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hundreds of files need not survive a power cut."""
    monkeypatch.setattr(paths.os, "fsync", lambda _: None)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    return save_concept(some_concept(), tmp_path / "mug.safetensors")


def assert_same(a: Concept, b: Concept) -> None:
    for name in (f.name for f in fields(Concept)):
        if name not in ("handles", "weights", "thumbnail"):
            assert getattr(a, name) == getattr(b, name), name
    assert {n: set(v) for n, v in a.handles.items()} == {n: set(v) for n, v in b.handles.items()}
    for name, vectors in a.handles.items():
        assert all(torch.equal(rows, b.handles[name][encoder]) for encoder, rows in vectors.items())
    assert set(a.weights) == set(b.weights)
    for name, change in a.weights.items():
        other = b.weights[name]
        if isinstance(change, Diff):
            assert isinstance(other, Diff)
            assert torch.equal(change.tensor, other.tensor)
        else:
            assert isinstance(other, LowRank)
            assert torch.equal(change.up, other.up)
            assert torch.equal(change.down, other.down)
            assert change.scale == other.scale
    assert (a.thumbnail is None) == (b.thumbnail is None)
    if a.thumbnail is not None and b.thumbnail is not None:
        assert torch.allclose(a.thumbnail, b.thumbnail, atol=1e-6)


def test_a_concept_comes_back_as_it_was(saved: Path) -> None:
    assert_same(some_concept(), load_concept(saved))


def test_the_same_concept_gives_the_same_bytes(saved: Path, tmp_path: Path) -> None:
    concept = some_concept()
    turned = replace(
        concept,
        weights=dict(reversed(list(concept.weights.items()))),
        recipe=dict(reversed(list(concept.recipe.items()))),
    )
    again = save_concept(turned, tmp_path / "again.safetensors")
    assert again.read_bytes() == saved.read_bytes()


def test_loading_and_saving_changes_no_byte(saved: Path, tmp_path: Path) -> None:
    again = save_concept(load_concept(saved), tmp_path / "again.safetensors")
    assert again.read_bytes() == saved.read_bytes()


def test_any_safetensors_reader_opens_it(saved: Path) -> None:
    tensors = load_file(saved)
    assert tensors["handle.my-mug.clip_l"].shape == (1, 8)
    assert "adapter.unet.output_blocks.4.1.proj_out.up" in tensors
    assert "adapter.unet.output_blocks.4.1.transformer_blocks.0.attn2.to_out.0.diff_b" in tensors
    with safe_open(saved, framework="pt") as file:
        document = json.loads(file.metadata()[KEY])
    assert document["method"] == "break_a_scene"
    assert document["scales"] == {"unet.output_blocks.4.1.proj_out": 0.5}


def test_a_concept_of_nothing_but_a_handle(tmp_path: Path) -> None:
    concept = Concept(handles={"x1": {"clip_g": torch.ones(1, 4)}}, base="b", method="m")
    assert_same(concept, load_concept(save_concept(concept, tmp_path / "x.safetensors")))


def test_the_loaded_concept_does_not_hold_on_to_the_file(saved: Path) -> None:
    concept = load_concept(saved)
    saved.write_bytes(b"")
    assert torch.equal(
        concept.handles["cat_2"]["clip_l"], some_concept().handles["cat_2"]["clip_l"]
    )


def test_info_needs_no_tensors(saved: Path) -> None:
    info = read_concept_info(saved)
    assert info.handles == {"my-mug": {"clip_l": 1}, "cat_2": {"clip_l": 2}}
    assert info.weights == 4
    assert info.numbers == 24 + 256 + 32 + 2 * 128 + 32
    assert info.size_bytes == saved.stat().st_size
    assert info.concept.prompts == some_concept().prompts
    assert info.concept.thumbnail is not None


def test_large_thumbnails_are_made_smaller(tmp_path: Path) -> None:
    concept = replace(some_concept(), thumbnail=torch.rand(300, 600, 3))
    loaded = load_concept(save_concept(concept, tmp_path / "x.safetensors"))
    assert loaded.thumbnail is not None
    assert loaded.thumbnail.shape == (128, 256, 3)


def test_recipes_take_dataclasses_enums_and_odd_numbers() -> None:
    class Way(str, Enum):
        ONE = "one"

    @dataclass
    class Inner:
        rates: tuple[float, ...] = (0.5, float("nan"))

    @dataclass
    class Outer:
        inner: Inner = field(default_factory=Inner)
        way: Way = Way.ONE

    assert recipe_of(Outer(), words={"x1": "cat"}) == {
        "inner": {"rates": [0.5, None]},
        "way": "one",
        "words": {"x1": "cat"},
    }


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_are_none_are_not_saved(tmp_path: Path, value: float) -> None:
    concept = Concept(handles={"x1": {"clip_l": torch.full((1, 2), value)}}, base="b", method="m")
    with pytest.raises(ConceptFileError, match="not numbers"):
        save_concept(concept, tmp_path / "x.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_odd_weight_names_are_not_saved(tmp_path: Path) -> None:
    for name in ("unet.out.0.gamma", "vae.x.weight", "unet.a/b.weight"):
        concept = replace(some_concept(), weights={name: Diff(torch.ones(2))})
        with pytest.raises(ConceptFileError):
            save_concept(concept, tmp_path / "x.safetensors")


def test_a_full_disk_keeps_the_old_concept(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = saved.read_bytes()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(paths.os, "fsync", full)
    with pytest.raises(StorageError, match="disk is full"):
        save_concept(some_concept(seed=1), saved)
    assert saved.read_bytes() == before
    assert list(saved.parent.iterdir()) == [saved]


# Damage


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


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=8,
)


@settings(max_examples=300, **FUZZ)
@given(data=st.data())
def test_hostile_documents_end_in_one_kind_of_error(tmp_path: Path, data: st.DataObject) -> None:
    """Whatever stands in the document: a concept, or a ConceptFileError."""
    document = sound_document()
    name = data.draw(st.sampled_from([*document, "other"]))
    document[name] = data.draw(json_values)
    path = tmp_path / "hostile.safetensors"
    try:
        write_document(path, {"handle.x1.clip_l": torch.ones(1, 4)}, document)
    except UnicodeEncodeError:
        return
    with suppress(ConceptFileError):
        load_concept(path)


def sound_document() -> dict[str, Any]:
    return {
        "base": "b",
        "format": "concept",
        "history": {},
        "method": "m",
        "prompts": [],
        "recipe": {},
        "scales": {},
        "seeds": {},
        "thumbnail": "",
        "version": 1,
        "words": {},
    }


def test_the_sound_document_is_sound(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    write_document(path, {"handle.x1.clip_l": torch.ones(1, 4)}, sound_document())
    assert load_concept(path).names == ["x1"]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"version": 2}, "newer ConceptLoom"),
        ({"version": 0}, "version 0"),
        ({"version": True}, "version True"),
        ({"format": "other"}, "format"),
        ({"format": "training state"}, "queue the trainer again"),
        ({"extra": 1}, "'extra'"),
        ({"recipe": []}, "recipe"),
        ({"prompts": [1]}, "prompts"),
        ({"prompts": ["x" * 20_000]}, "prompts"),
        ({"prompts": ["x"] * 2_000}, "prompts"),
        ({"method": "a\0b"}, "method"),
        ({"seeds": {"a": 1.5}}, "seed"),
        ({"scales": {"unet.x": 1.0}}, "unet.x"),
        ({"scales": {"unet.x": "1"}}, "scale"),
        ({"scales": {"unet.x": 10**400}}, "scale"),
        ({"thumbnail": "!!"}, "thumbnail"),
        ({"thumbnail": "QUJD"}, "thumbnail"),
        ({"thumbnail": "A" * 2_000_000}, "thumbnail"),
    ],
)
def test_odd_documents_are_refused(tmp_path: Path, change: dict[str, Any], told: str) -> None:
    path = tmp_path / "x.safetensors"
    tensors = {"handle.x1.clip_l": torch.ones(1, 4)}
    write_document(path, tensors, {**sound_document(), **change})
    with pytest.raises(ConceptFileError, match=told):
        load_concept(path)


UP, DOWN = "adapter.unet.out.2.up", "adapter.unet.out.2.down"


@pytest.mark.parametrize(
    ("tensors", "told"),
    [
        ({"handle.x1.t5": torch.ones(1, 4)}, "unknown tensor"),
        ({"handle.x y.clip_l": torch.ones(1, 4)}, "unknown tensor"),
        ({"handle.../../x.clip_l": torch.ones(1, 4)}, "unknown tensor"),
        ({"adapter.unet.out.2.gamma": torch.ones(1)}, "unknown tensor"),
        ({"adapter.__class__.diff": torch.ones(1)}, "unknown tensor"),
        ({"adapter.unet." + "a." * 50 + "diff": torch.ones(1)}, "unknown tensor"),
        ({"handle.x1.clip_l": torch.ones(1, 4).half()}, "float16"),
        ({"handle.x1.clip_l": torch.ones(4)}, r"\[4\]"),
        ({"handle.x1.clip_l": torch.ones(0, 4)}, r"\[0, 4\]"),
        ({"handle.x1.clip_l": torch.tensor([[float("nan")]])}, "NaN"),
        ({"handle.x1.clip_l": torch.tensor([[float("inf")]])}, "NaN"),
        ({"handle.X1.clip_l": torch.ones(1, 1), "handle.x1.clip_l": torch.ones(1, 1)}, "twice"),
        ({UP: torch.ones(4, 2)}, "no down"),
        ({DOWN: torch.ones(2, 4)}, "no up"),
        ({UP: torch.ones(4, 2), DOWN: torch.ones(3, 4)}, "do not fit"),
        ({UP: torch.ones(4, 0), DOWN: torch.ones(0, 4)}, "do not fit"),
        ({UP: torch.ones(2), DOWN: torch.ones(2, 4)}, "do not fit"),
        ({"adapter.unet.out.2.diff": torch.tensor(1.0)}, "impossible shape"),
        (
            {
                UP: torch.ones(4, 2),
                DOWN: torch.ones(2, 4),
                "adapter.unet.out.2.diff": torch.ones(4),
            },
            "twice",
        ),
    ],
)
def test_odd_tensors_are_refused(
    tmp_path: Path, tensors: dict[str, torch.Tensor], told: str
) -> None:
    path = tmp_path / "x.safetensors"
    write_document(path, tensors, sound_document())
    with pytest.raises(ConceptFileError, match=told):
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


# Foreign files


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConceptFileError, match="cannot be read"):
        load_concept(tmp_path / "nobody.safetensors")
    with pytest.raises(ConceptFileError, match="cannot be read"):
        load_concept(tmp_path)


def test_pickles_are_named_and_never_opened(tmp_path: Path) -> None:
    for name, zipped in (("a.pt", True), ("b.bin", False)):
        path = tmp_path / name
        torch.save({"x": torch.ones(1)}, path, _use_new_zipfile_serialization=zipped)
        with pytest.raises(ConceptFileError, match="pickle"):
            load_concept(path)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "empty"),
        (b'{"nodes": []}', "workflow"),
        (b"<!DOCTYPE html><html>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "Git LFS"),
        (b"GGUF\3\0\0\0", "GGUF"),
        (b"\x89PNG\r\n\x1a\n", "picture"),
    ],
)
def test_foreign_bytes_are_named(tmp_path: Path, content: bytes, told: str) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    with pytest.raises(ConceptFileError, match=told):
        load_concept(path)


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (["lora_unet_down_blocks_0.lora_up.weight"], "LoRA"),
        (["unet.down_blocks.0.to_k.lora_A.weight"], "LoRA"),
        (["clip_l", "clip_g"], "embedding"),
        (["emb_params"], "embedding"),
        (["model.diffusion_model.out.2.weight", "first_stage_model.x"], "checkpoint"),
        (["down_blocks.0.x", "conv_in.weight"], "diffusion model"),
        (["text_model.encoder.layers.0.x", "b"], "text encoder"),
        (["controlnet_cond_embedding.x", "b"], "ControlNet"),
        (["a", "b"], "another program"),
    ],
)
def test_foreign_tensors_are_named(tmp_path: Path, names: list[str], told: str) -> None:
    path = tmp_path / "x.safetensors"
    save_file({name: torch.ones(2, 2) for name in names}, path)
    with pytest.raises(ConceptFileError, match=told):
        load_concept(path)


def test_a_checkpoint_in_eight_bits_is_named_too(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save_file({"model.diffusion_model.a": torch.ones(2, 2).to(torch.float8_e4m3fn)}, path)
    with pytest.raises(ConceptFileError, match="checkpoint"):
        load_concept(path)


def test_a_description_that_could_not_be_read_again_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(ConceptFileError, match="shorten"):
        write_tensors(tmp_path / "x", {}, {"a": "b" * 40_000_000})
    assert list(tmp_path.iterdir()) == []
