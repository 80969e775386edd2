"""Concepts on Anima: handles in both of its readers, LAG on every layer of a block."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from anima_models import anima, in_diffusers
from nodes import KSampler
from safetensors.torch import save_file
from test_anima_loras import AT, LATENT
from tiny_models import Graph, assert_same_state, graph_of, state_of

from conceptloom.attention.lag import LagEdit
from conceptloom.attention.lag_config import LagConfig
from conceptloom.concepts.concept import Concept, LowRank
from conceptloom.errors import BaseMismatchError, HandleError
from conceptloom.host.comfyui.host import ComfyHost
from conceptloom.host.ports import Role
from conceptloom.host.roles import roles_of
from conceptloom.methods.personalized_residuals import Localised, lag_concept
from conceptloom.nodes.lag import with_lag
from conceptloom.nodes.shared import applied

PROMPT = "a photo of a <my-cat> cat, (sharp:1.2)"


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


def concept_of(host: ComfyHost, name: str = "my-cat", size: float = 0.3) -> Concept:
    generator = torch.Generator().manual_seed(len(name))

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    weights = {}
    for weight in host.weight_names():
        if Role.PROJ_OUT in roles_of(weight):
            out, inner = host.weight(weight).shape
            weights[weight] = LowRank(size * random(out, 2), random(2, inner) / inner**0.5, 0.5)
    return Concept(
        handles={name: {e: random(2, width) for e, width in host.encoders.items()}},
        weights=weights,
        base=host.fingerprint,
        method="personalized_residuals",
        recipe={"class_word": "cat"},
        prompts=(f"a photo of a <{name}> cat",),
    )


def drawn(model: Any, clip: Any, text: str = PROMPT, steps: int = 2) -> torch.Tensor:
    prompts = (clip.encode_from_tokens_scheduled(clip.tokenize(t)) for t in (text, "blurred"))
    empty = {"samples": torch.zeros(1, 16, 1, 12, 20)}
    return KSampler().sample(model, 5, steps, 3.0, "euler", "simple", *prompts, empty, 1.0)[0][
        "samples"
    ]


def test_handles_are_read_the_same_in_both_hosts(host: ComfyHost, other: Any):
    handles = concept_of(host).handles
    ours, theirs = (one.encode_prompt(PROMPT, handles) for one in (host, other))
    assert ours.tokens == theirs.tokens
    assert len(ours.find_handle("my-cat")) == 2
    torch.testing.assert_close(ours.context, theirs.context, rtol=0, atol=1e-5)
    for encoder in host.encoders:  # each of the two vectors counts
        changed = {"my-cat": {**handles["my-cat"], encoder: handles["my-cat"][encoder] + 1}}
        assert not torch.allclose(host.encode_prompt(PROMPT, changed).context, ours.context)


def test_word_vectors_put_in_place_of_a_word_change_nothing(host: ComfyHost):
    vectors = host.word_vectors(" cat")
    spoken = host.encode_prompt("a photo of a <x> on grass", {"x": vectors})
    plain = host.encode_prompt("a photo of a cat on grass")
    torch.testing.assert_close(spoken.context, plain.context, rtol=0, atol=1e-5)


def test_an_applied_concept_is_what_the_port_computes(graph: Graph, host: ComfyHost):
    before = state_of(graph.model), state_of(graph.clip.patcher)
    concept = concept_of(host)
    model, clip = applied(graph.model, graph.clip, concept, 1.0)
    merged = ComfyHost(model, graph.clip)
    prompt = host.encode_prompt(PROMPT, concept.handles)
    # the vectors of the adapter are in the MODEL, those of Qwen3 in the CLIP
    (context, extras), *_ = clip.encode_from_tokens_scheduled(clip.tokenize(PROMPT))
    ids = extras["t5xxl_ids"]
    assert [int(i) for i in ids if i >= 32100] == [32100, 32101]
    network = model.model.diffusion_model
    merged.predict(LATENT, AT, [prompt])  # loads it
    weights = extras["t5xxl_weights"][None, :, None]
    told = network.preprocess_text_embeds(context, ids[None], t5xxl_weights=weights)
    torch.testing.assert_close(told, prompt.context, rtol=0, atol=1e-5)
    plain = drawn(graph.model, graph.clip, "a photo of a cat")
    assert not torch.allclose(drawn(model, clip), plain, atol=1e-2)
    assert torch.equal(drawn(graph.model, graph.clip, "a photo of a cat"), plain)
    assert_same_state(graph.model, before[0])
    assert_same_state(graph.clip.patcher, before[1])


def test_strength_0_leaves_all_but_the_words(graph: Graph, host: ComfyHost):
    model, clip = applied(graph.model, graph.clip, concept_of(host), 0.0)
    text = "a photo of a cat"
    assert torch.equal(drawn(model, clip, text), drawn(graph.model, graph.clip, text))


def test_two_concepts_have_rows_of_their_own(graph: Graph, host: ComfyHost):
    one, two = concept_of(host), concept_of(host, "dog")
    model, clip = applied(*applied(graph.model, graph.clip, one, 1.0), two, 1.0)
    (_, extras), *_ = clip.encode_from_tokens_scheduled(clip.tokenize("<dog> and <my-cat>"))
    assert [int(i) for i in extras["t5xxl_ids"] if i >= 32100] == [32102, 32103, 32100, 32101]
    assert drawn(model, clip, "<dog> and <my-cat>").isfinite().all()
    crossed = applied(graph.model, graph.clip, two, 1.0)[0]
    with pytest.raises(HandleError, match="in a different order"):
        applied(crossed, applied(graph.model, graph.clip, one, 1.0)[1], one, 1.0)


def test_a_concept_of_another_family_is_refused_in_words(graph: Graph, host: ComfyHost):
    foreign = concept_of(host)
    sd1 = graph_of("sd1")
    with pytest.raises((BaseMismatchError, HandleError), match="a checkpoint of the same kind"):
        applied(sd1.model, sd1.clip, foreign, 1.0)


def lagged(host: Any, concept: Concept, prompt: Any, **config: Any) -> torch.Tensor:
    edit = LagEdit([lag_concept(host, Localised(concept=concept, config=LagConfig(**config)))])
    return host.predict(LATENT, AT, [prompt], [edit])


def test_lag_under_a_mask_of_ones_is_the_concept_in_the_weights(graph: Graph, host: ComfyHost):
    concept = concept_of(host)
    merged = ComfyHost(*applied(graph.model, graph.clip, concept, 1.0))
    prompt = host.encode_prompt(PROMPT, concept.handles)
    expected = merged.predict(LATENT, AT, [prompt])
    for config in ({"quantile": 0.0}, {"localised": False}):
        found = lagged(host, concept, prompt, **config)
        atol = 1e-5 * float(expected.abs().max())
        torch.testing.assert_close(found, expected, rtol=0, atol=atol)
    plain = host.predict(LATENT, AT, [prompt])
    assert not torch.allclose(expected, plain, atol=1e-2)
    assert torch.equal(lagged(host, concept, prompt, strength=0.0), plain)


def test_lag_is_the_same_in_both_hosts(host: ComfyHost, other: Any):
    concept = concept_of(host)
    results = []
    for one in (host, other):
        prompt = one.encode_prompt(PROMPT, concept.handles)
        results.append(lagged(one, concept, prompt, smoothing=1.0))
    atol = 1e-5 * float(results[0].abs().max())
    torch.testing.assert_close(*results, rtol=0, atol=atol)


def test_lag_in_the_hosts_sampler_stays_in_its_place(graph: Graph, host: ComfyHost):
    concept, masks = concept_of(host), []
    given = Localised(concept=concept, config=LagConfig())
    model, clip = with_lag(
        graph.model, graph.clip, [given], lambda site, mask, info: masks.append(mask)
    )
    found = drawn(model, clip)
    assert len(masks) == 2 * len(host.sites.transformers)
    assert all(abs(float(mask.mean()) - 0.5) < 0.02 for mask in masks)
    everywhere = Localised(concept=concept, config=LagConfig(localised=False))
    whole = drawn(*with_lag(graph.model, graph.clip, [everywhere]))
    silent = Localised(concept=concept, config=LagConfig(strength=0.0))
    base = drawn(*with_lag(graph.model, graph.clip, [silent]))
    assert not torch.allclose(found, whole, atol=1e-3)
    assert not torch.allclose(found, base, atol=1e-3)


@pytest.mark.parametrize("text", ["a embedding:filed, and a {}", "a {} (embedding:filed:1.2) cat"])
def test_embeddings_beside_a_handle_are_read(graph: Graph, tmp_path: Path, text: str):
    """By Qwen3; T5's rows say nothing there, as in newer versions of the host."""
    clip = copy.copy(graph.clip)
    clip.tokenizer = copy.copy(clip.tokenizer)
    inner = clip.tokenizer.qwen3_06b = copy.copy(clip.tokenizer.qwen3_06b)
    inner.embedding_directory = [str(tmp_path)]
    host = ComfyHost(graph.model, clip)
    width = host.encoders["qwen3_06b"]
    inner.embedding_size = width
    save_file({"qwen3_06b": torch.ones(2, width)}, str(tmp_path / "filed.safetensors"))
    concept = concept_of(host)
    both = applied(graph.model, clip, concept, 1.0)[1]
    pairs, words = (
        both.tokenize(text.replace("embedding:filed", word).format("<my-cat>"))
        for word in ("embedding:filed", "dog")
    )
    vectors = [t for t, *_ in pairs["qwen3_06b"][0] if isinstance(t, torch.Tensor)]
    assert sum(bool((vector == 1).all()) for vector in vectors) == 2
    assert [i for i, *_ in pairs["t5xxl"][0]].count(0) == 2
    assert len(words["qwen3_06b"][0]) <= len(pairs["qwen3_06b"][0])
    assert max(weight for _, weight in pairs["t5xxl"][0]) == (1.2 if "1.2" in text else 1.0)
    prompt = host.encode_prompt(text.format("<my-cat>"), concept.handles)
    without = host.encode_prompt(
        text.replace("embedding:filed", "").format("<my-cat>"), concept.handles
    )
    assert prompt.context.shape == without.context.shape
    assert (prompt.context - without.context).abs().max() > 1e-3
