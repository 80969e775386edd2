"""Exports, read by the host's own LoRA and embedding loaders: the same picture as the concept."""

from __future__ import annotations

import logging
from pathlib import Path

import comfy.lora
import comfy.sd
import comfy.utils
import pytest
import torch
from tiny_models import Graph

from conceptloom.concepts.concept import Change, Concept, Diff, LowRank, weight_edits
from conceptloom.concepts.lora_export import export_embeddings, export_lora
from conceptloom.host.comfyui.host import ComfyHost
from conceptloom.training.adapters import Scope, Start, make_adapters

LATENT = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1))
T = torch.tensor([500])
# A fingerprint of the real family makes the export choose the names that its tools use.
REAL = {
    "sd1": "unet320 context768 clip_l768 eps 4ch 00000000",
    "sd2": "unet320 context1024 clip_h1024 v 4ch 00000000",
}


def predicted(host: ComfyHost, text: str = "a photo of a cat") -> torch.Tensor:
    return host.predict(LATENT, T, [host.encode_prompt(text)])


def concept_of(host: ComfyHost, weights: dict[str, Change], base: str) -> Concept:
    generator = torch.Generator().manual_seed(2)
    vectors = {
        name: torch.randn(2, width, generator=generator) for name, width in host.encoders.items()
    }
    return Concept(handles={"my-mug": vectors}, weights=weights, base=base, method="m")


def learned(host: ComfyHost, scope: Scope) -> dict[str, Change]:
    """What training would leave behind: every weight of the scope a little off."""
    adapters = make_adapters(host, scope, rank=3, alpha=1.5, start=Start.BOTH_RANDOM)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in adapters.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.add_(0.02 * noise.to(parameter.device))
    return adapters.to_concept_weights()


def with_lora(graph: Graph, path: Path, caplog: pytest.LogCaptureFixture) -> Graph:
    lora = comfy.utils.load_torch_file(str(path), safe_load=True)
    with caplog.at_level(logging.WARNING):
        model, clip = comfy.sd.load_lora_for_models(graph.model, graph.clip, lora, 1.0, 1.0)
    missing = [r.getMessage() for r in caplog.records if "not loaded" in r.getMessage().lower()]
    assert missing == []
    return Graph(model, clip, graph.vae)


@pytest.mark.parametrize("real_names", [False, True])
@pytest.mark.parametrize(
    "scope", [Scope.PROJ_OUT, Scope.LOW_RANK, Scope.CROSS_ATTENTION_KV, Scope.FULL]
)
def test_load_lora_gives_the_concepts_picture(
    graph: Graph,
    host: ComfyHost,
    family: str,
    scope: Scope,
    real_names: bool,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    if real_names and family not in REAL:
        pytest.skip("SDXL's own names are the original ones, which the other case tests")
    base = REAL[family] if real_names else host.fingerprint
    with torch.inference_mode(False):
        concept = concept_of(host, learned(host, scope), base)
    export_lora(concept, tmp_path / "x.safetensors", rank=None)
    plain = predicted(host)
    loaded = with_lora(graph, tmp_path / "x.safetensors", caplog)
    exported = predicted(ComfyHost(loaded.model, loaded.clip, loaded.vae))
    with host.edited(weight_edits(concept), trainable=False):
        applied = predicted(host)
    assert (applied - plain).abs().max() > 1e-2
    torch.testing.assert_close(exported, applied, rtol=1e-3, atol=1e-4)


def test_a_cut_difference_is_off_by_what_the_report_tells(
    graph: Graph, host: ComfyHost, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with torch.inference_mode(False):
        weights = learned(host, Scope.CROSS_ATTENTION_KV)
        concept = concept_of(host, weights, host.fingerprint)
    report = export_lora(concept, tmp_path / "x.safetensors", rank=4)
    loaded = with_lora(graph, tmp_path / "x.safetensors", caplog)
    lost = total = 0.0
    for name, change in weights.items():
        assert isinstance(change, Diff)
        key = name.replace("unet.", "diffusion_model.")
        patches = loaded.model.patches[key]
        original = host.weight(name).clone()
        patched = comfy.lora.calculate_weight(patches, original.clone(), key)
        lost += float((patched - original - change.tensor).double().square().sum())
        total += float(change.tensor.double().square().sum())
    assert (lost / total) ** 0.5 == pytest.approx(report.error, rel=1e-3)
    assert 0.1 < report.error < 1


def test_stock_embeddings_equal_the_handle(graph: Graph, host: ComfyHost, tmp_path: Path) -> None:
    concept = concept_of(host, {}, host.fingerprint)
    export_embeddings(concept, tmp_path)
    clip = graph.clip.clone()
    for name in host.encoders:
        getattr(clip.tokenizer, name).embedding_directory = str(tmp_path)
    stock = clip.encode_from_tokens(clip.tokenize("a photo of embedding:my-mug on a table"))
    own = host.encode_prompt("a photo of <my-mug> on a table", concept.handles)
    torch.testing.assert_close(own.context.cpu(), stock.cpu(), rtol=1e-4, atol=1e-5)


def test_low_rank_changes_reach_convolutions_and_linear_layers(host: ComfyHost) -> None:
    changes = {n: c for n, c in _learned_normally(host).items() if n.endswith("proj_out.weight")}
    assert changes
    assert all(isinstance(change, LowRank) for change in changes.values())
    ndims = {change.down.ndim for change in changes.values() if isinstance(change, LowRank)}
    assert ndims == {host.weight(next(iter(changes))).ndim}


def _learned_normally(host: ComfyHost) -> dict[str, Change]:
    with torch.inference_mode(False):
        return learned(host, Scope.PROJ_OUT)
