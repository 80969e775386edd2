"""Concept files: same content, same bytes, and nothing half written."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, fields, replace
from enum import Enum
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from conceptloom.concepts import paths
from conceptloom.concepts.concept import Concept, Diff, LowRank
from conceptloom.concepts.concept_file import (
    load_concept,
    read_concept_info,
    recipe_of,
    save_concept,
)
from conceptloom.concepts.tensor_file import KEY, write_tensors
from conceptloom.errors import ConceptFileError, StorageError

from ..fake_host import some_concept

pytestmark = pytest.mark.usefixtures("quick_disk")


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
    with pytest.raises(ConceptFileError, match="NaN or infinite"):
        save_concept(concept, tmp_path / "x.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_odd_weight_names_are_not_saved(tmp_path: Path) -> None:
    for name in ("unet.out.0.gamma", "Vae.x.weight", "unet.a/b.weight"):
        concept = replace(some_concept(), weights={name: Diff(torch.ones(2))})
        with pytest.raises(ConceptFileError):
            save_concept(concept, tmp_path / "x.safetensors")


def version_of(path: Path) -> int:
    with safe_open(path, framework="pt") as file:
        return json.loads(file.metadata()[KEY])["version"]


def test_networks_have_any_name_and_those_of_the_first_format_keep_it(
    saved: Path, tmp_path: Path
) -> None:
    assert version_of(saved) == 1
    handle, weight = {"qwen3_06b": torch.ones(2, 8)}, "net.blocks.3.cross_attn.k_proj.weight"
    named = Concept(handles={"x1": handle}, base="b", method="m")
    weights = {weight: LowRank(torch.ones(3, 2), torch.ones(2, 4), 0.5)}
    changed = Concept(handles={}, weights=weights, base="b", method="m")
    for concept in (named, changed):
        path = save_concept(concept, tmp_path / "x.safetensors")
        assert version_of(path) == 2
        assert_same(load_concept(path), concept)
    assert read_concept_info(save_concept(named, path)).handles == {"x1": {"qwen3_06b": 2}}


@pytest.mark.parametrize("encoder", ["Qwen", "a.b", "x" * 33, "1x", ""])
def test_odd_names_of_encoders_are_not_saved(tmp_path: Path, encoder: str) -> None:
    concept = Concept(handles={"x1": {encoder: torch.ones(1, 2)}}, base="b", method="m")
    with pytest.raises(ConceptFileError):
        save_concept(concept, tmp_path / "x.safetensors")


def test_a_description_that_could_not_be_read_again_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(ConceptFileError, match="shorten"):
        write_tensors(tmp_path / "x", {}, {"a": "b" * 40_000_000})
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_keeps_the_old_concept(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = saved.read_bytes()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(paths.os, "fsync", full)
    with pytest.raises(StorageError, match="disk is full"):
        save_concept(some_concept(seed=1), saved)
    assert saved.read_bytes() == before
    assert list(saved.parent.iterdir()) == [saved]
