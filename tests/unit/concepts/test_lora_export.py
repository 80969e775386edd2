"""What other programs read: names, numbers, and the error that is told."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from conceptloom.concepts.concept import Change, Concept, Diff
from conceptloom.concepts.lora_export import export_embeddings, export_lora
from conceptloom.concepts.low_rank import LowRank, closest_low_rank
from conceptloom.errors import ConceptFileError, ConfigError

from ..fake_host import some_concept

SD1 = "unet320 context768 clip_l768 eps 4ch 12345678"
SDXL = "unet640 context2048 clip_g1280 clip_l768 eps 4ch 12345678"
K = "unet.output_blocks.4.1.transformer_blocks.0.attn2.to_k.weight"


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def concept_of(weights: dict[str, Change], base: str = SD1) -> Concept:
    return Concept(
        handles={"my-mug": {"clip_l": random(1, 8)}}, weights=weights, base=base, method="m"
    )


def lora_delta(tensors: dict[str, Tensor], module: str) -> Tensor:
    """The formula of every LoRA reader: alpha / rank * up @ down."""
    up, down = tensors[f"{module}.lora_up.weight"], tensors[f"{module}.lora_down.weight"]
    scale = tensors[f"{module}.alpha"].item() / down.shape[0]
    return scale * (up.flatten(1) @ down.flatten(1)).reshape(up.shape[0], *down.shape[1:])


def test_low_rank_exports_exactly(tmp_path: Path) -> None:
    linear = LowRank(random(16, 3), random(3, 8, seed=1), 0.5)
    conv = LowRank(random(16, 4), random(4, 16, 1, 1, seed=1))
    concept = concept_of({K: linear, "unet.output_blocks.4.1.proj_out.weight": conv})
    report = export_lora(concept, tmp_path / "x.safetensors")
    tensors = load_file(report.files[0])
    block = "lora_unet_up_blocks_1_attentions_1"
    found = lora_delta(tensors, f"{block}_transformer_blocks_0_attn2_to_k")
    assert torch.equal(found, linear.delta((16, 8)))
    assert torch.equal(lora_delta(tensors, f"{block}_proj_out"), conv.delta((16, 16, 1, 1)))
    assert tensors[f"{block}_proj_out.lora_up.weight"].shape == (16, 4, 1, 1)
    assert tensors[f"{block}_proj_out.lora_down.weight"].shape == (4, 16, 1, 1)
    assert report.error == 0
    assert set(report.errors.values()) == {0.0}
    assert "exact" in report.summary()


@pytest.mark.parametrize("shape", [(16, 8), (8, 16), (12, 4, 3, 3), (9, 9)])
@pytest.mark.parametrize("rank", [1, 3, 8, 100])
def test_the_reported_error_is_the_true_one_and_the_smallest(
    tmp_path: Path, shape: tuple[int, ...], rank: int
) -> None:
    change = Diff(random(*shape))
    report = export_lora(concept_of({K: change}), tmp_path / "x.safetensors", rank=rank)
    module = "lora_unet_up_blocks_1_attentions_1_transformer_blocks_0_attn2_to_k"
    delta = lora_delta(load_file(report.files[0]), module)
    true = float((delta - change.tensor).norm() / change.tensor.norm())
    assert report.errors[K] == pytest.approx(true, abs=1e-6)
    assert report.error == pytest.approx(true, abs=1e-6)
    singular = torch.linalg.svdvals(change.tensor.flatten(1).double())
    best = float(singular[rank:].square().sum().sqrt() / singular.norm())
    assert true == pytest.approx(best, abs=1e-6)
    assert report.ranks[K] == min(rank, len(singular))


def test_the_total_error_weighs_by_size(tmp_path: Path) -> None:
    large = torch.diag(torch.tensor([4.0, 3.0]))  # rank 1 loses 3 of 5
    small = torch.diag(torch.tensor([2.0, 0.0]))  # loses nothing
    concept = concept_of({K: Diff(large), K.replace("to_k", "to_v"): Diff(small)})
    report = export_lora(concept, tmp_path / "x.safetensors", rank=1)
    assert report.errors[K] == pytest.approx(0.6)
    assert report.errors[K.replace("to_k", "to_v")] == pytest.approx(0, abs=1e-7)
    assert report.error == pytest.approx((9 / 29) ** 0.5)
    assert "55.71%" in report.summary()
    assert "60.00%" in report.summary()


def test_factors_share_their_size() -> None:
    cut, _ = closest_low_rank(1e-6 * random(16, 8), 4)
    assert float(cut.up.norm()) == pytest.approx(float(cut.down.norm()), rel=1e-4)


def test_a_difference_of_nothing_is_harmless() -> None:
    cut, residue = closest_low_rank(torch.zeros(4, 4), 2)
    assert residue == 0
    assert not cut.delta((4, 4)).any()


def test_biases_and_norms_stay_whole(tmp_path: Path) -> None:
    weights: dict[str, Change] = {
        "unet.output_blocks.4.1.norm.weight": Diff(random(8)),
        "unet.output_blocks.4.1.norm.bias": Diff(random(8, seed=1)),
    }
    report = export_lora(concept_of(weights), tmp_path / "x.safetensors")
    tensors = load_file(report.files[0])
    module = "lora_unet_up_blocks_1_attentions_1_norm"
    assert torch.equal(tensors[f"{module}.diff"], random(8))
    assert torch.equal(tensors[f"{module}.diff_b"], random(8, seed=1))
    assert "full-rank differences" in report.summary()


def test_without_a_rank_everything_stays_whole(tmp_path: Path) -> None:
    report = export_lora(concept_of({K: Diff(random(8, 8))}), tmp_path / "x", rank=None)
    assert [key.rpartition(".")[2] for key in load_file(report.files[0])] == ["diff"]
    assert report.error == 0
    assert report.ranks == {}


def test_exports_are_the_same_bytes_each_time(tmp_path: Path) -> None:
    for name in ("a", "b"):
        export_lora(some_concept(), tmp_path / name, rank=2)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_model_managers_find_the_words(tmp_path: Path) -> None:
    export_lora(some_concept(), tmp_path / "x.safetensors")
    with safe_open(tmp_path / "x.safetensors", framework="pt") as file:
        metadata = file.metadata()
    assert metadata["modelspec.trigger_phrase"] == "embedding:my-mug, embedding:cat_2"
    assert json.loads(metadata["conceptloom_export"])["method"] == "break_a_scene"


def test_a_concept_of_handles_alone_has_no_lora(tmp_path: Path) -> None:
    report = export_lora(concept_of({}), tmp_path / "x.safetensors")
    assert report.files == ()
    assert "handles only" in report.summary()
    assert list(tmp_path.iterdir()) == []


def test_bad_ranks_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="rank"):
        export_lora(some_concept(), tmp_path / "x", rank=0)


def test_files_of_others_are_not_overwritten(tmp_path: Path) -> None:
    concept = some_concept()
    for path in ("x.safetensors", "cat_2.safetensors"):
        (tmp_path / path).write_bytes(b"precious")
    with pytest.raises(ConceptFileError, match="already exists"):
        export_lora(concept, tmp_path / "x.safetensors")
    with pytest.raises(ConceptFileError, match="already exists"):
        export_embeddings(concept, tmp_path)
    assert not (tmp_path / "my-mug.safetensors").exists()
    assert (tmp_path / "cat_2.safetensors").read_bytes() == b"precious"
    export_lora(concept, tmp_path / "x.safetensors", overwrite=True)
    export_embeddings(concept, tmp_path, overwrite=True)


def test_embeddings_have_one_file_a_handle(tmp_path: Path) -> None:
    vectors = {"clip_l": random(2, 8), "clip_g": random(2, 12)}
    concept = replace(some_concept(), handles={"my-mug": vectors, "x1": vectors})
    report = export_embeddings(concept, tmp_path / "embeddings")
    assert [path.name for path in report.files] == ["my-mug.safetensors", "x1.safetensors"]
    loaded = load_file(report.files[0])
    assert set(loaded) == {"clip_l", "clip_g"}
    assert torch.equal(loaded["clip_g"], vectors["clip_g"])
    assert "embedding:my-mug embedding:x1" in report.summary()


def test_a_handle_that_windows_keeps_is_refused(tmp_path: Path) -> None:
    concept = replace(some_concept(), handles={"aux": {"clip_l": random(1, 8)}})
    with pytest.raises(ConceptFileError, match="device"):
        export_embeddings(concept, tmp_path)


TEXT = "text_model.encoder.layers.0.mlp.fc1"


def test_diffusers_reads_the_lora_of_a_low_rank_concept(tmp_path: Path) -> None:
    """kohya's names, through diffusers' own converter."""
    pytest.importorskip("diffusers")
    from diffusers.loaders.lora_conversion_utils import _convert_non_diffusers_lora_to_diffusers

    weights: dict[str, Change] = {
        K: LowRank(random(8, 2), random(2, 8)),
        "unet.middle_block.1.proj_out.weight": LowRank(random(8, 2), random(2, 8, 1, 1)),
        f"clip_l.{TEXT}.weight": LowRank(random(8, 2), random(2, 8)),
    }
    export_lora(concept_of(weights), tmp_path / "x.safetensors")
    converted, alphas = _convert_non_diffusers_lora_to_diffusers(
        load_file(tmp_path / "x.safetensors")
    )
    names = " ".join(converted)
    assert "unet.up_blocks.1.attentions.1.transformer_blocks.0.attn2" in names
    assert "unet.mid_block.attentions.0.proj_out" in names
    assert "text_encoder.text_model.encoder.layers.0.mlp.fc1" in names
    assert set(alphas.values()) == {2.0}


def test_every_weight_is_reported_and_a_stop_writes_nothing(tmp_path: Path) -> None:
    names = [K, K.replace("to_k", "to_v"), K.replace("to_k", "to_q")]
    concept = concept_of({name: Diff(random(16, 8)) for name in names})
    told: list[tuple[int, int]] = []

    class Cancelled(Exception):
        pass

    def progress(step: int, total: int, message: str = "", preview: object = None) -> None:
        told.append((step, total))
        if step == 1:
            raise Cancelled

    with pytest.raises(Cancelled):
        export_lora(concept, tmp_path / "x.safetensors", rank=2, progress=progress)
    assert told == [(0, 3), (1, 3)]
    assert list(tmp_path.iterdir()) == []
