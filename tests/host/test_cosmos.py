"""Cosmos-Predict2 in ComfyUI: its prompts, its noise, and learning on it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import comfy.samplers
import comfy.sd
import pytest
import torch
from anima_models import anima
from cosmos_models import cosmos
from safetensors.torch import load_file
from test_anima_training import recipe, step, without_vae
from test_single_local import ONES, drawn, local
from test_single_local import loras as saved_loras
from tiny_models import Graph, assert_same_state, graph_of, state_of

from conceptloom.attention.maps import AttentionCapture, TokenQuery
from conceptloom.concepts.concept_file import load_concept, save_concept
from conceptloom.concepts.lora_export import export_lora
from conceptloom.errors import HandleError, ModelError
from conceptloom.host.comfyui.host import ComfyHost
from conceptloom.host.comfyui.prompts import clip_with_handles
from conceptloom.host.comfyui.texts import telling_clip
from conceptloom.host.comfyui.tokens import TOKENS
from conceptloom.host.noise import CosmosPath
from conceptloom.host.ports import find_run
from conceptloom.nodes.shared import applied

PROMPT = "a photo of a red teapot, (on grass:1.3)"
LATENT = torch.randn(1, 16, 12, 20, generator=torch.Generator().manual_seed(1))

loras = saved_loras


@pytest.fixture
def graph() -> Graph:
    return cosmos()


@pytest.fixture
def host(graph: Graph) -> ComfyHost:
    return ComfyHost(graph.model, graph.clip)


def vectors(seed: int = 0) -> dict[str, dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    return {"my-mug": {"t5xxl": 0.1 * torch.randn(2, 64, generator=generator)}}


def test_prompts_are_those_of_the_hosts_own_node(graph: Graph, host: ComfyHost):
    assert isinstance(host.noise_path, CosmosPath)
    assert host.encoders == {"t5xxl": 64}
    prompt = host.encode_prompt(PROMPT)
    theirs, _ = graph.clip.encode_from_tokens(graph.clip.tokenize(PROMPT), return_pooled=True)
    torch.testing.assert_close(prompt.context, theirs, rtol=1e-5, atol=1e-5)
    assert prompt.context.shape == (1, 512, 64)
    assert len(prompt.tokens) == len(prompt.content) == 512
    assert sum(prompt.content) == len([t for t in prompt.tokens if t not in (0, 1)])
    places = prompt.find(host.tokenize("teapot"))
    assert len(places) == 2  # tea-pot
    capture = AttentionCapture(host.sites.transformers)
    host.predict(LATENT, torch.tensor([0.7]), [prompt], [capture])
    words = tuple(i for i, is_word in enumerate(prompt.content) if is_word)
    every = capture.maps([TokenQuery(0, words, 512)])
    torch.testing.assert_close(every, torch.ones_like(every))


def test_velocity_is_what_the_hosts_own_sampler_computes(graph: Graph, host: ComfyHost):
    clip, found = graph.clip, []
    conds = clip.encode_from_tokens_scheduled(clip.tokenize(PROMPT))
    guider = comfy.samplers.CFGGuider(graph.model)
    guider.inner_set_conds({"positive": conds})
    level, t = 2.0, 2 / 3

    def sample(model, noise, sigmas, extra_args=None, **kwargs):
        x, sigma = LATENT.unsqueeze(2) / (1 - t), torch.full((1,), level)
        every, options = [guider.conds["positive"]], guider.model_options
        found.extend(comfy.samplers.calc_cond_batch(guider.inner_model, every, x, sigma, options))
        return noise

    start = torch.zeros_like(LATENT).unsqueeze(2)
    guider.sample(start, start, comfy.samplers.KSAMPLER(sample), torch.tensor([80.0, 0.0]))
    at = torch.tensor([t])
    output = host.predict(LATENT, at, [host.encode_prompt(PROMPT)])
    x_0 = host.noise_path.denoised(LATENT, output, at)
    torch.testing.assert_close(x_0, found[0].squeeze(2), rtol=0, atol=1e-4)


def test_handles_are_read_and_told(graph: Graph, host: ComfyHost):
    text = "a photo of <my-mug> on grass"
    prompt = host.encode_prompt(text, vectors())
    assert len(prompt.find_handle("my-mug")) == 2
    word = {"it": host.word_vectors("teapot")}
    as_word = host.encode_prompt("a red <it>", word)
    assert as_word.context.shape == (1, 512, 64)
    torch.testing.assert_close(
        as_word.context, host.encode_prompt("a red teapot").context, rtol=1e-5, atol=1e-5
    )
    clip = clip_with_handles(graph.clip, vectors(), {"my-mug": "one"})
    ((context, extra),) = clip.encode_from_tokens_scheduled(clip.tokenize(text))
    torch.testing.assert_close(context, prompt.context, rtol=1e-5, atol=1e-5)
    assert find_run(extra[TOKENS], ("my-mug",)) == prompt.find_handle("my-mug")
    told = telling_clip(graph.clip)
    ((_, plain),) = told.encode_from_tokens_scheduled(told.tokenize(PROMPT))
    assert find_run(plain[TOKENS], host.tokenize("teapot"))
    with pytest.raises(HandleError, match="needs t5xxl"):
        clip_with_handles(graph.clip, {"other": {"clip_l": torch.zeros(1, 8)}})


def test_gradients_reach_handles_and_agree_with_finite_differences(graph: Graph, host: ComfyHost):
    before = state_of(graph.model)
    at = torch.tensor([0.6])

    def loss(handle: torch.Tensor) -> torch.Tensor:
        prompt = host.encode_prompt("a <my-mug> on grass", {"my-mug": {"t5xxl": handle}})
        return host.predict(LATENT, at, [prompt]).double().pow(2).mean()

    with torch.inference_mode(False), host.edited({}, trainable=True, checkpointing=True):
        handle = vectors()["my-mug"]["t5xxl"].clone().requires_grad_()
        loss(handle).backward()
        assert handle.grad is not None
        assert (handle.grad != 0).all()
        direction, expected = handle.grad / handle.grad.norm(), handle.grad.norm().double()
        with torch.no_grad():
            step = 1e-3
            found = (loss(handle + step * direction) - loss(handle - step * direction)) / (2 * step)
    torch.testing.assert_close(found, expected, rtol=0.02, atol=1e-5)
    assert_same_state(graph.model, before)


def test_a_concept_is_learned_saved_and_exported(graph: Graph, host: ComfyHost, tmp_path: Path):
    before = state_of(graph.model), state_of(graph.clip.patcher)
    learned = recipe(without_vae(host), checkpointing=True)
    losses, gradients = step(learned)
    assert losses["attention"] > 0
    assert {name.partition(".")[0] for name in gradients} == {"handle", "adapter"}
    assert all(bool((gradient != 0).any()) for gradient in gradients.values())
    with torch.inference_mode(False):
        concept = learned.concept([], None)
    save_concept(concept, tmp_path / "cup.safetensors")
    again = load_concept(tmp_path / "cup.safetensors")
    assert set(again.weights) == set(concept.weights)
    assert set(again.handles["mug"]) == {"t5xxl"}
    assert export_lora(again, tmp_path / "lora.safetensors").error == 0
    tensors = load_file(tmp_path / "lora.safetensors")
    core = comfy.sd.load_lora_for_models(graph.model, graph.clip, tensors, 1.0, 1.0)[0]
    prompt, at = host.encode_prompt("a cat"), torch.tensor([0.6])
    found = [
        ComfyHost(model, graph.clip).predict(LATENT, at, [prompt])
        for model in (core, applied(graph.model, graph.clip, again, 1.0)[0], graph.model)
    ]
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-4)
    assert (found[0] - found[2]).abs().max() > 1e-2
    assert_same_state(graph.model, before[0])
    assert_same_state(graph.clip.patcher, before[1])


def test_localised_loras_work_where_their_words_are(graph: Graph, loras: Any):
    """As on Anima: ones are core's own merge, and two are told apart by their words."""
    merged, _ = comfy.sd.load_lora_for_models(graph.model, graph.clip, loras[0], 1.0, 1.0)
    expected, base = drawn(merged, graph.clip), drawn(graph.model, graph.clip)
    ones = drawn(*local(graph.model, graph.clip, 0, "teapot", mask=ONES[None]))
    size = float(expected.abs().max())
    torch.testing.assert_close(ones, expected, rtol=1e-4, atol=1e-4 * size)
    model, clip = local(graph.model, graph.clip, 0, "red teapot")
    one, two = drawn(model, clip), drawn(*local(model, clip, 1, "blue mug"))
    assert all(picture.isfinite().all() for picture in (one, two))
    assert (one - base).abs().max() > 1e-3 * size
    assert (two - one).abs().max() > 1e-3 * size


def test_other_clips_are_refused_in_words(graph: Graph):
    with pytest.raises(ModelError, match=r"clip_l, but Cosmos-Predict2 reads .* old T5-XXL"):
        ComfyHost(graph.model, graph_of("sd1").clip)
    with pytest.raises(ModelError, match="t5xxl, but this MODEL does not read"):
        ComfyHost(graph_of("sd1").model, graph.clip)
    with pytest.raises(ModelError, match="t5xxl, but Anima reads"):
        ComfyHost(anima().model, graph.clip)
