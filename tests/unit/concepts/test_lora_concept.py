"""A LoRA file as a concept: handle, words, picture, and every change exact."""

from __future__ import annotations

import base64
import io
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from conceptloom.concepts.changes import Diff, Kronecker, LowRank, count_of
from conceptloom.concepts.concept import Concept, identities, weight_edits
from conceptloom.concepts.concept_file import load_concept, save_concept
from conceptloom.concepts.lora_concept import concept_of_lora, proposed_name, trigger_of
from conceptloom.concepts.lora_dense import difference_of
from conceptloom.concepts.lora_export import export_lora
from conceptloom.concepts.lora_file import LoraFile, lora_of, read_lora
from conceptloom.concepts.lora_forms import Computed
from conceptloom.concepts.lora_keys import key_map
from conceptloom.concepts.lora_metadata import LoraWords, picture_of
from conceptloom.errors import ConceptFileError, ConfigError
from conceptloom.host.diffusers.host import DiffusersHost

QUERY = "unet.output_blocks.2.1.transformer_blocks.0.attn1.to_q.weight"
CONV = "unet.input_blocks.1.0.in_layers.2.weight"
NORM = "unet.output_blocks.2.1.transformer_blocks.0.norm1.weight"
TEXT = "clip_l.text_model.encoder.layers.0.self_attn.q_proj.weight"


@pytest.fixture(scope="module")
def tiny() -> DiffusersHost:
    return DiffusersHost.tinyworld()


def file_of(tiny: DiffusersHost) -> LoraFile:
    """One change of every form."""
    generator = torch.Generator().manual_seed(0)

    def randn(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    width, text = tiny.weight(QUERY).shape[0], tiny.weight(TEXT).shape[0]
    out, into = tiny.weight(CONV).shape[:2]
    dora = {"up": randn(text, 2), "down": randn(2, text), "dora_scale": randn(text, 1)}
    return LoraFile(
        changes={
            QUERY: Kronecker(randn(2, 2), randn(width // 2, width // 2), 0.5),
            CONV: LowRank(randn(out, 2), randn(2, into, 3, 3), 0.5),
            NORM: Diff(randn(*tiny.weight(NORM).shape)),
            TEXT: Computed("DoRA", dora),
        },
        kinds={"LoKr": 1, "LoCon": 1, "difference": 1, "DoRA": 1},
        identity="x",
    )


def imported(tiny: DiffusersHost, **more: str) -> Concept:
    words = LoraWords("blue dot, shiny", ("circle",), "My title")
    return concept_of_lora(tiny, file_of(tiny), words, **({"words": "blue circle"} | more))


def test_the_handle_reads_as_the_trigger(tiny: DiffusersHost):
    concept = imported(tiny)
    assert concept.names == ["blue-dot"]
    assert concept.prompts == ("a photo of <blue-dot> blue circle",)
    assert concept.words == {"blue-dot": "blue circle"}
    assert concept.recipe["class_word"] == "blue circle"
    with_handle = tiny.encode_prompt("a <blue-dot> blue circle on white", concept.handles)
    plain = tiny.encode_prompt("a blue dot blue circle on white")
    assert torch.equal(with_handle.context, plain.context)


def test_every_change_comes_along(tiny: DiffusersHost):
    concept, file = imported(tiny), file_of(tiny)
    edits = weight_edits(concept)
    assert set(edits) == {QUERY, CONV, NORM, TEXT}
    for name, form in file.changes.items():
        weight = tiny.weight(name).float()
        if isinstance(form, Computed):
            expected = weight + difference_of(form.parts, weight, 1.0)
        else:
            expected = weight + form.delta(weight.shape)
        torch.testing.assert_close(edits[name](weight), expected)


def test_a_file_without_a_trigger_has_the_words_as_its_handle(tiny: DiffusersHost):
    concept = concept_of_lora(
        tiny, file_of(tiny), LoraWords(), words="blue circle", file_name="My Blob_v1.safetensors"
    )
    assert concept.names == ["my-blob_v1"]
    assert concept.prompts == ("a photo of <my-blob_v1>",)
    assert concept.recipe["class_word"] == ""


def test_names_and_triggers_are_proposed():
    assert trigger_of(LoraWords("miku, 1girl", ("tag",))) == "miku"
    assert trigger_of(LoraWords("", ("tag", "other"))) == "tag"
    assert trigger_of(LoraWords()) == ""
    assert proposed_name("", "Hatsune Miku (v2)") == "hatsune-miku-v2"
    assert proposed_name("...", "") == "lora"


def test_what_is_missing_is_named(tiny: DiffusersHost):
    with pytest.raises(ConfigError, match="words"):
        imported(tiny, words=" ")
    with pytest.raises(ConfigError, match="trigger"):
        imported(tiny, trigger="circle " * 60)
    broken = replace(file_of(tiny), changes={NORM: Diff(torch.full((4,), torch.nan))})
    with pytest.raises(ConceptFileError, match="NaN"):
        concept_of_lora(tiny, broken, LoraWords(), words="circle")


def test_the_file_keeps_everything(tiny: DiffusersHost, tmp_path: Path):
    concept = replace(imported(tiny), thumbnail=torch.rand(32, 32, 3))
    path = save_concept(concept, tmp_path / "x.safetensors")
    loaded = load_concept(path)
    assert identities(loaded) == identities(concept)
    assert loaded.recipe == concept.recipe
    product = loaded.weights[QUERY]
    assert isinstance(product, Kronecker)
    assert product.scale == 0.5
    assert count_of(product) == 4 + (tiny.weight(QUERY).shape[0] // 2) ** 2
    again = save_concept(loaded, tmp_path / "again.safetensors")
    assert again.read_bytes() == path.read_bytes()


def test_the_exported_lora_is_the_imported_one(tiny: DiffusersHost, tmp_path: Path):
    concept = imported(tiny)
    report = export_lora(concept, tmp_path / "x.safetensors", rank=None)
    assert report.error == 0
    tensors, _ = read_lora(tmp_path / "x.safetensors")
    names = key_map(tiny.weight_names(), tiny.sites, tiny.encoders)
    back = lora_of(tensors, names, lambda name: tuple(tiny.weight(name).shape))
    assert not back.unmatched
    for name, change in concept.weights.items():
        shape = tiny.weight(name).shape
        form = back.changes[name]
        assert not isinstance(form, Computed)
        torch.testing.assert_close(form.delta(shape), change.delta(shape))


def encoded(size: int, kind: str) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (size, size // 2), (255, 0, 0)).save(buffer, kind)
    return buffer.getvalue()


def test_the_picture_comes_from_the_metadata_or_from_a_file_beside(tmp_path: Path):
    path = tmp_path / "miku.v1.safetensors"
    assert picture_of(path, {}) is None
    (tmp_path / "miku.v1.jpg").write_bytes(encoded(512, "JPEG"))
    beside = picture_of(path, {})
    assert beside is not None
    assert beside.shape == (128, 256, 3)
    uri = "data:image/png;base64," + base64.b64encode(encoded(64, "PNG")).decode()
    inside = picture_of(path, {"modelspec.thumbnail": uri})
    assert inside is not None
    assert inside.shape == (32, 64, 3)
    assert torch.equal(inside[0, 0], torch.tensor([1.0, 0, 0]))


@pytest.mark.parametrize("text", ["data:image/png;base64,AAAA", "data:image/png;base64,=!", "x"])
def test_a_damaged_picture_stops_nothing(tmp_path: Path, text: str):
    (tmp_path / "a.png").write_bytes(b"no picture")
    assert picture_of(tmp_path / "a.safetensors", {"modelspec.thumbnail": text}) is None
