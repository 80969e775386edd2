"""Localised LoRAs on Z-Image and Krea 2, through the node and ComfyUI's own sampler."""

from __future__ import annotations

from typing import Any

import comfy.samplers
import comfy.sd
import folder_paths
import pytest
import torch
from safetensors.torch import save_file
from tiny_models import Graph, assert_same_state, state_of
from tiny_single import single_graph, single_kind

from conceptloom.errors import PromptError
from conceptloom.host.comfyui.host import ComfyHost
from conceptloom.nodes.local_lora import LoadLoraLocalized

PROMPT = "a photo of a red teapot beside a blue mug on a table"
KNOBS = {
    "mask_means": "exactly here",
    "found_after": 0.2,
    "threshold": 0.45,
    "grow": 0.06,
    "end": 1.0,
}
NOISE = torch.randn(1, 16, 10, 12, generator=torch.Generator().manual_seed(1))
ONES, ZEROS = torch.ones(80, 96), torch.zeros(80, 96)


kind, graph = single_kind, single_graph


def lora_tensors(graph: Graph, seed: int) -> dict[str, torch.Tensor]:
    """A LoRA on all that has a place in the picture, with names that core ComfyUI reads."""
    host, generator = ComfyHost(graph.model, graph.clip), torch.Generator().manual_seed(seed)
    tensors = {}
    for site in host.sites.layers:
        rows, columns = host.weight(site.weight).shape
        name = f"diffusion_model.{site.name}"
        tensors[f"{name}.lora_B.weight"] = 0.3 * torch.randn(rows, 2, generator=generator)
        down = torch.randn(2, columns, generator=generator) / columns**0.5
        tensors[f"{name}.lora_A.weight"] = down
    return tensors


@pytest.fixture
def loras(graph: Graph, folders: Any) -> list[dict[str, torch.Tensor]]:
    every = [lora_tensors(graph, seed) for seed in (1, 2)]
    for number, tensors in enumerate(every):
        save_file(tensors, f"{folder_paths.get_folder_paths('loras')[0]}/{number}.safetensors")
    folder_paths.filename_list_cache.clear()
    return every


def local(model: Any, clip: Any, number: int, words: str, **inputs: Any) -> tuple[Any, Any]:
    model, clip, _ = LoadLoraLocalized.execute(
        model, clip, f"{number}.safetensors", words, 1.0, 1.0, **{**KNOBS, **inputs}
    ).args
    return model, clip


def drawn(model: Any, clip: Any, cfg: float = 3.0, prompt: str = PROMPT, steps: int = 5) -> Any:
    positive, negative = (
        clip.encode_from_tokens_scheduled(clip.tokenize(text)) for text in (prompt, "blurry")
    )
    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds(positive, negative)
    guider.set_cfg(cfg)
    noise = (
        NOISE[:, :, None]
        if model.get_model_object("latent_format").latent_dimensions == 3
        else NOISE
    )
    sampling = model.get_model_object("model_sampling")
    sigmas = comfy.samplers.calculate_sigmas(sampling, "simple", steps)
    return guider.sample(
        noise, torch.zeros_like(noise), comfy.samplers.sampler_object("euler"), sigmas, seed=0
    )


def test_ones_are_core_s_own_merge(graph: Graph, loras: Any):
    merged, _ = comfy.sd.load_lora_for_models(graph.model, graph.clip, loras[0], 1.0, 1.0)
    expected, base = drawn(merged, graph.clip), drawn(graph.model, graph.clip)
    assert (expected - base).abs().max() > 0.05
    ones = drawn(*local(graph.model, graph.clip, 0, "teapot", mask=ONES[None]))
    torch.testing.assert_close(ones, expected, rtol=1e-4, atol=1e-4)


def test_zeros_are_the_base_model(graph: Graph, loras: Any):
    before = state_of(graph.model)
    zeros = drawn(*local(graph.model, graph.clip, 0, "teapot", mask=ZEROS[None]))
    assert torch.equal(zeros, drawn(graph.model, graph.clip))
    assert_same_state(graph.model, before)


@pytest.mark.parametrize("cfg", [1.0, 3.0])
def test_two_are_found_by_their_words(graph: Graph, loras: Any, cfg: float):
    base = drawn(graph.model, graph.clip, cfg)
    model, clip = local(graph.model, graph.clip, 0, "red teapot")
    one = drawn(model, clip, cfg)
    two = drawn(*local(model, clip, 1, "blue mug"), cfg)
    other, clip = local(graph.model, graph.clip, 1, "blue mug")
    swapped = drawn(*local(other, clip, 0, "red teapot"), cfg)
    for picture in (base, one, two):
        assert picture.isfinite().all()
    assert (one - base).abs().max() > 1e-3
    assert (two - one).abs().max() > 1e-3
    assert torch.equal(two, swapped)
    record = other.get_attachment("conceptloom.local_masks")
    assert record is not None


def test_words_that_are_not_there(graph: Graph, loras: Any):
    model, clip = local(graph.model, graph.clip, 0, "green bottle")
    with pytest.raises(PromptError, match="green bottle"):
        drawn(model, clip)
