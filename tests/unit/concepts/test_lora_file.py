"""LoRA files of other programs: every layout of keys, every kind of entry, nothing lost."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from conceptloom.concepts.concept import Diff, LowRank
from conceptloom.concepts.lora_dense import difference_of, resolved
from conceptloom.concepts.lora_file import lora_of, read_lora
from conceptloom.concepts.lora_forms import Computed, Kronecker, form_of
from conceptloom.concepts.lora_keys import key_map
from conceptloom.concepts.lora_metadata import words_of
from conceptloom.errors import BaseMismatchError, ConceptFileError
from conceptloom.host.diffusers.host import DiffusersHost

QUERY = "unet.output_blocks.2.1.transformer_blocks.0.attn1.to_q.weight"
TEXT = "clip_l.text_model.encoder.layers.0.self_attn.q_proj.weight"


@pytest.fixture(scope="module")
def tiny() -> DiffusersHost:
    return DiffusersHost.tinyworld()


@pytest.fixture(scope="module")
def names(tiny: DiffusersHost) -> dict[str, str]:
    return key_map(tiny.weight_names(), tiny.sites, tiny.encoders)


def randn(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def pair(tiny: DiffusersHost, weight: str, rank: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    out, width = tiny.weight(weight).shape[:2]
    return randn(out, rank), randn(rank, width)


@pytest.mark.parametrize(
    ("module", "up", "down"),
    [
        ("lora_unet_output_blocks_2_1_transformer_blocks_0_attn1_to_q", "lora_up", "lora_down"),
        ("diffusion_model.output_blocks.2.1.transformer_blocks.0.attn1.to_q", "lora_B", "lora_A"),
        ("{flat}", "lora_up", "lora_down"),
        ("unet.{dotted}", "lora_B", "lora_A"),
        ("unet.{dotted}", "lora.up", "lora.down"),
        ("base_model.model.{dotted}", "lora_B.default", "lora_A.default"),
        ("lycoris_{under}", "lora_up", "lora_down"),
    ],
)  # fmt: skip
def test_every_programs_names_lead_to_the_same_weight(
    tiny: DiffusersHost, names: dict[str, str], module: str, up: str, down: str
):
    from conceptloom.host.diffusers.sites import canonical_unet_names

    dotted = canonical_unet_names(tiny.unet)[QUERY].removesuffix(".weight")
    under = dotted.replace(".", "_")
    start = module.format(dotted=dotted, under=under, flat=f"lora_unet_{under}")
    a, b = pair(tiny, QUERY)
    found = lora_of({f"{start}.{up}.weight": a, f"{start}.{down}.weight": b}, names, shape_in(tiny))
    assert list(found.changes) == [QUERY]
    assert not found.unmatched
    change = found.changes[QUERY]
    assert isinstance(change, LowRank)
    torch.testing.assert_close(change.delta((a.shape[0], b.shape[1])), a @ b)


@pytest.mark.parametrize(
    "start", ["lora_te_{u}", "lora_te1_{u}", "text_encoder.{d}", "text_encoder.{short}"]
)
def test_text_encoders_are_named_in_their_ways(
    tiny: DiffusersHost, names: dict[str, str], start: str
):
    path = TEXT.removeprefix("clip_l.").removesuffix(".weight")
    a, b = pair(tiny, TEXT)
    short = path.removeprefix("text_model.")  # by PEFT with transformers 5
    name = start.format(u=path.replace(".", "_"), d=path, short=short)
    found = lora_of(
        {f"{name}.lora_up.weight": a, f"{name}.lora_down.weight": b}, names, shape_in(tiny)
    )
    assert list(found.text) == [TEXT]
    assert not found.unet
    assert "1 of them in the text encoder" in found.summary()


def shape_in(host: DiffusersHost):
    return lambda name: tuple(host.weight(name).shape)


def test_old_attention_processors_are_read(tiny: DiffusersHost, names: dict[str, str]):
    a, b = pair(tiny, "unet.output_blocks.2.1.transformer_blocks.0.attn1.to_out.0.weight")
    start = next(
        n
        for n, w in names.items()
        if w.endswith("2.1.transformer_blocks.0.attn1.to_out.0.weight") and "processor" in n
    )
    found = lora_of(
        {f"{start}_lora.up.weight": a, f"{start}_lora.down.weight": b}, names, shape_in(tiny)
    )
    assert len(found.changes) == 1


def test_what_fits_nothing_is_counted_and_reported(
    tiny: DiffusersHost, names: dict[str, str], caplog: pytest.LogCaptureFixture
):
    a, b = pair(tiny, QUERY)
    start = "lora_unet_output_blocks_2_1_transformer_blocks_0_attn1_to_q"
    tensors = {f"{start}.lora_up.weight": a, f"{start}.lora_down.weight": b, "other.weight": a}
    with caplog.at_level(logging.WARNING, "conceptloom"):
        found = lora_of(tensors, names, shape_in(tiny), "some.safetensors")
    assert found.unmatched == ("other.weight",)
    assert "1 of 3 keys" in caplog.text
    assert "some.safetensors" in caplog.text
    with pytest.raises(BaseMismatchError, match="none of them fits"):
        lora_of({"other.weight": a}, names, shape_in(tiny))
    # half an entry is none
    with pytest.raises(BaseMismatchError, match="none of them fits"):
        lora_of({f"{start}.lora_up.weight": a}, names, shape_in(tiny))


def test_other_widths_are_refused_by_name(tiny: DiffusersHost, names: dict[str, str]):
    start = "lora_unet_output_blocks_2_1_transformer_blocks_0_attn1_to_q"
    tensors = {f"{start}.lora_up.weight": randn(7, 2), f"{start}.lora_down.weight": randn(2, 5)}
    with pytest.raises(BaseMismatchError, match=r"attn1\.to_q.*7 outputs"):
        lora_of(tensors, names, shape_in(tiny))


def test_forms_are_the_cheapest_exact_ones():
    hada = {
        "hada_w1_a": randn(8, 2),
        "hada_w1_b": randn(2, 6),
        "hada_w2_a": randn(8, 2),
        "hada_w2_b": randn(2, 6),
    }
    kind, narrow = form_of(hada)
    assert kind == "LoHa"
    assert isinstance(narrow, LowRank)
    assert narrow.rank == 4
    dense = (hada["hada_w1_a"] @ hada["hada_w1_b"]) * (hada["hada_w2_a"] @ hada["hada_w2_b"])
    torch.testing.assert_close(narrow.delta((8, 6)), dense)
    wide = {n: randn(40, 20) if n.endswith("_a") else randn(20, 30) for n in hada}
    assert isinstance(form_of(wide)[1], Diff)
    kind, kron = form_of(
        {"lokr_w1": randn(2, 3), "lokr_w2": randn(4, 5), "alpha": torch.tensor(9.0)}
    )
    assert kind == "LoKr"
    assert isinstance(kron, Kronecker)
    assert kron.scale == 1.0, "alpha is for factors; two whole matrices have none"
    cp = {
        "lokr_w1": randn(2, 2),
        "lokr_w2_a": randn(3, 4),
        "lokr_w2_b": randn(3, 5),
        "lokr_t2": randn(3, 3, 3, 3),
    }
    dense = torch.einsum("rshw,si,ro->oihw", cp["lokr_t2"], cp["lokr_w2_b"], cp["lokr_w2_a"])
    delta = form_of(cp)[1].delta((8, 10, 3, 3))  # core's own merge fails at these
    torch.testing.assert_close(delta[:4, 5:], cp["lokr_w1"][0, 1] * dense)
    assert form_of({"up": randn(4, 2)}) is None
    assert form_of({"alpha": torch.tensor(1.0)}) is None


def test_strength_nought_of_what_is_computed_is_nothing():
    weight = randn(8, 8)
    for parts in (
        {"oft_blocks": randn(2, 4, 4)},
        {"oft_blocks": randn(2, 2, 4, 4)},
        {"up": randn(8, 2), "down": randn(2, 8), "dora_scale": randn(8, 1)},
    ):
        assert float(difference_of(parts, weight, 0.0).abs().max()) < 1e-6
        kind, form = form_of(parts)
        assert isinstance(form, Computed)
        assert kind in ("OFT", "BOFT", "DoRA")
        assert isinstance(resolved(form, weight, 0.5), Diff)


def test_files_are_read_with_their_metadata(tmp_path: Path):
    path = tmp_path / "a.safetensors"
    save_file({"x": randn(2)}, path, {"modelspec.trigger_phrase": "miku"})
    tensors, metadata = read_lora(path)
    assert list(tensors) == ["x"]
    assert metadata["modelspec.trigger_phrase"] == "miku"
    with pytest.raises(ConceptFileError, match="no LoRA file"):
        read_lora(tmp_path / "b.safetensors")
    (tmp_path / "c.safetensors").write_bytes(b"not a file of tensors")
    with pytest.raises(ConceptFileError, match="cannot be read"):
        read_lora(tmp_path / "c.safetensors")
    with pytest.raises(ConceptFileError, match=r"\.safetensors"):
        read_lora(tmp_path / "d.pt")


def test_words_come_from_the_metadata():
    tags = {"10_miku": {"1girl": 30, "blue hair": 12}, "reg": {"1girl": 5, " ": 9}}
    words = words_of({"ss_tag_frequency": json.dumps(tags), "ss_output_name": "miku-v2"})
    assert words.tags == ("1girl", "blue hair")
    assert words.title == "miku-v2"
    assert words.proposal == "1girl, blue hair"
    words = words_of({"modelspec.trigger_phrase": "hatsune miku, 1girl"})
    assert words.proposal == "hatsune miku, 1girl"
    for damaged in ("{", "[1]", '{"a": 3}', '{"a": {"b": "c"}}', "[" * 100000):
        assert words_of({"ss_tag_frequency": damaged}).tags == ()
