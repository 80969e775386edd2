"""Regions of localised LoRAs on Anima read texts of their own, the same in both hosts."""

from __future__ import annotations

import itertools
from typing import Any

import comfy.sample
import comfy.sd
import pytest
import torch
from anima_models import anima, in_diffusers
from local_loras import local
from nodes import ConditioningZeroOut, KSampler
from test_anima_loras import LEFT, ONES, PROMPT, drawn, lora, setup_of
from tiny_models import Graph, assert_same_state, state_of

from conceptloom.attention.local_lora import LocalConfig, LocalLora
from conceptloom.attention.local_setup import local_setup, lora_for
from conceptloom.concepts.concept import Concept
from conceptloom.host.comfyui.host import ComfyHost
from conceptloom.host.roles import is_of_adapter, text_encoder_of
from conceptloom.nodes.shared import applied

Tensors = dict[str, torch.Tensor]
STEPS = 4  # whose levels are numbers that the sampler rounds alike


@pytest.fixture
def graph() -> Graph:
    return anima()


@pytest.fixture
def host(graph: Graph) -> ComfyHost:
    return ComfyHost(graph.model, graph.clip)


@pytest.fixture(scope="module")
def other() -> Any:
    pytest.importorskip("diffusers")
    return in_diffusers(anima())


def text_lora(host: ComfyHost, seed: int = 0, size: float = 0.4) -> Tensors:
    """On Qwen3 and on the adapter behind it, and on nothing else."""
    generator, tensors = torch.Generator().manual_seed(seed), {}
    for name in host.weight_names():
        encoder, path = text_encoder_of(name), name.removesuffix(".weight").partition(".")[2]
        if not name.endswith("_proj.weight") or not (encoder or is_of_adapter(name)):
            continue
        start = f"text_encoders.{encoder}.transformer" if encoder else "diffusion_model"
        out, inner = host.weight(name).shape
        up, down = (torch.randn(s, generator=generator) for s in ((out, 2), (2, inner)))
        tensors[f"{start}.{path}.lora_B.weight"] = size * up
        tensors[f"{start}.{path}.lora_A.weight"] = down / inner**0.5
    assert {name.startswith("text_encoders") for name in tensors} == {True, False}
    return tensors


def painted(host: Any, tensors: list[Tensors]) -> list[LocalLora]:
    words, masks = ("red cat", "small dog"), (LEFT, 1 - LEFT)
    return [
        LocalLora(
            file=lora_for(host, one), name=f"{i}.safetensors", words=words[i],
            tokens=host.tokenize(words[i]), config=LocalConfig(), mask=masks[i],
        )
        for i, one in enumerate(tensors)
    ]  # fmt: skip


def sampled(graph: Graph, tensors: list[Tensors]) -> torch.Tensor:
    """x_0 of core's sampler with the nodes' MODEL and CLIP, before the latent format."""
    model, clip = graph.model, graph.clip
    for one, words, mask in zip(tensors, ("red cat", "small dog"), (LEFT, 1 - LEFT), strict=True):
        model, clip = local(graph, one, words, model=model, clip=clip, mask=mask)
    conds = [clip.encode_from_tokens_scheduled(clip.tokenize(t)) for t in (PROMPT, "")]
    empty = {"samples": torch.zeros(1, 16, 1, 12, 20)}
    latents = KSampler().sample(model, 5, STEPS, 1.0, "euler", "simple", *conds, empty, 1.0)[0]
    return graph.model.model.process_latent_in(latents["samples"]).squeeze(2)


def stepped(host: Any, tensors: list[Tensors]) -> torch.Tensor:
    """The same steps by the port."""
    setup = local_setup(host, painted(host, tensors))
    prompt = setup.encode(PROMPT)
    edit = setup.edit(STEPS, {PROMPT: prompt.tokens})
    levels = host.noise_path.levels(STEPS)
    x = comfy.sample.prepare_noise(torch.zeros(1, 16, 1, 12, 20), 5).squeeze(2)
    for level, after in itertools.pairwise(levels):
        x = x + (after - level) * host.predict(x, level[None], [prompt], [edit])
    return x


def test_painted_loras_read_their_texts_alike_in_both_hosts(graph: Graph, other: Any):
    host = ComfyHost(graph.model, graph.clip)
    before = state_of(graph.model), state_of(graph.clip.patcher)
    tensors = [lora(host, seed) | text_lora(host, seed) for seed in (1, 2)]
    ours, theirs = sampled(graph, tensors), stepped(other, tensors)
    size = float(theirs.abs().max())
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5 * size)
    torch.testing.assert_close(stepped(host, tensors), theirs, rtol=0, atol=1e-5 * size)
    without = [lora(host, seed) for seed in (1, 2)]
    assert float((sampled(graph, without) - ours).abs().max()) > 1e-3 * size
    assert_same_state(graph.model, before[0])
    assert_same_state(graph.clip.patcher, before[1])


def test_everywhere_a_loras_text_is_that_of_the_merged_model(graph: Graph, host: ComfyHost):
    tensors = text_lora(host)
    model, clip = local(graph, tensors, words="", mask=ONES, strength=0.7)
    expected = drawn(*comfy.sd.load_lora_for_models(graph.model, graph.clip, tensors, 0.7, 0.7))
    assert not torch.allclose(drawn(graph.model, graph.clip), expected, atol=1e-2)
    torch.testing.assert_close(drawn(model, clip), expected, rtol=0, atol=1e-4)


def test_a_blanked_negative_is_blank_for_a_loras_text_too(graph: Graph, host: ComfyHost):
    """The adapter makes rows of a prompt's tokens even where its states are zeros."""
    tensors = text_lora(host)

    def with_blank(model: Any, clip: Any) -> torch.Tensor:
        prompt = clip.encode_from_tokens_scheduled(clip.tokenize(PROMPT))
        blank = ConditioningZeroOut().zero_out(prompt)[0]
        empty = {"samples": torch.zeros(1, 16, 1, 12, 20)}
        done = KSampler().sample(model, 5, 3, 3.0, "euler", "simple", prompt, blank, empty, 1.0)
        return done[0]["samples"]

    local_pair = local(graph, tensors, words="", mask=ONES, strength=0.7)
    merged = comfy.sd.load_lora_for_models(graph.model, graph.clip, tensors, 0.7, 0.7)
    expected = with_blank(*merged)
    assert not torch.allclose(with_blank(graph.model, graph.clip), expected, atol=1e-2)
    torch.testing.assert_close(with_blank(*local_pair), expected, rtol=0, atol=1e-4)


def test_words_of_painted_loras_are_not_read_by_the_rest(graph: Graph, host: ComfyHost):
    """Where no mask reaches, the picture is that of a prompt without the words."""
    nowhere = torch.zeros_like(LEFT)
    model, clip = local(graph, lora(host), words="red cat", mask=nowhere)
    pairs = clip.tokenize(PROMPT)
    shorter = clip.tokenize("a photo of a and a small dog")
    assert pairs["conceptloom_rest_t5xxl"] == shorter["t5xxl"]
    plain = [graph.clip.encode_from_tokens_scheduled(graph.clip.tokenize(t)) for t in (
        "a photo of a and a small dog", "blurred")]  # fmt: skip
    empty = {"samples": torch.zeros(1, 16, 1, 12, 20)}
    expected = KSampler().sample(graph.model, 5, 3, 3.0, "euler", "simple", *plain, empty, 1.0)
    torch.testing.assert_close(drawn(model, clip), expected[0]["samples"], rtol=0, atol=1e-4)


def test_a_concept_applied_afterwards_keeps_the_texts(graph: Graph, host: ComfyHost):
    """Apply Concept behind the loader: handles stand in the text of the rest, too."""
    model, clip = local(graph, lora(host), words="red cat", mask=LEFT)
    vectors = {e: torch.randn(1, width) for e, width in host.encoders.items()}
    concept = Concept(handles={"it": vectors}, weights={}, base=host.fingerprint, method="test")
    _, clip = applied(model, clip, concept, 1.0)
    pairs = clip.tokenize("a red cat and <it>")
    assert [token for token, _ in pairs["conceptloom_rest_t5xxl"][0]].count(32100) == 1
    (_, options), *_ = clip.encode_from_tokens_scheduled(pairs)
    assert set(options["conceptloom_own_texts"].own) == {""}


def test_located_loras_read_their_texts_where_they_are_found(graph: Graph, other: Any):
    """Their changes of the text encoder take part as soon as there are masks."""
    host = ComfyHost(graph.model, graph.clip)
    tensors = [text_lora(host, 1), text_lora(host, 2)]
    outputs = []
    for one in (host, other):
        setup = setup_of(one, tensors)
        prompt = setup.encode(PROMPT)
        assert len(prompt.own_texts) == 2
        outputs.append(prompt.own_texts)
    for key, ours in outputs[0].items():
        size = float(ours.abs().max())
        torch.testing.assert_close(ours, outputs[1][key], rtol=0, atol=1e-5 * max(1, size))
