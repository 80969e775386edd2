"""Anima in both hosts: the same weights give the same contexts, velocities and maps."""

from __future__ import annotations

from typing import Any

import comfy.model_base
import comfy.samplers
import comfy.supported_models
import pytest
import torch
from anima_models import BLOCKS, HEADS, WIDTH, anima, in_diffusers
from tiny_models import Graph, assert_same_state, graph_of, state_of

from conceptloom.attention.maps import AttentionCapture, TokenQuery
from conceptloom.attention.site_selection import sites_to_read
from conceptloom.errors import ConfigError, ModelError
from conceptloom.host.comfyui.host import ComfyHost
from conceptloom.host.comfyui.noise import clock_of, noise_path_of
from conceptloom.host.ports import Place, Role, Rows, UNetEdit
from conceptloom.host.roles import roles_of
from conceptloom.samplers.guidance import guided_sites

PROMPT = "a photo of a red teapot, (on grass:1.3)"
TIMES = torch.tensor([0.7, 0.3])


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


LATENT = noise(2, 16, 12, 20, seed=1)


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


def test_the_family_is_found_and_told(host: ComfyHost):
    assert host.sites.family == "anima"
    assert host.fingerprint.startswith("anima96 context64 anima_t564 qwen3_06b64 flow 16ch ")
    assert len(host.sites.transformers) == BLOCKS
    assert {s.place for s in host.sites.transformers} == {Place.FLAT}
    sizes = {(s.downsample, s.width, s.heads) for s in host.sites.transformers}
    assert sizes == {(2, WIDTH, HEADS)}
    assert [s.number for s in host.sites.finders] == [2]
    assert host.noise_path.levels(4).tolist() == pytest.approx([1, 0.9, 0.75, 0.5, 0])


def test_a_clip_of_another_family_is_refused_in_words(graph: Graph):
    with pytest.raises(ModelError, match=r"clip_l, but Anima reads prompts with Qwen3"):
        ComfyHost(graph.model, graph_of("sd1").clip)


def test_names_and_roles_are_the_same_in_both_hosts(host: ComfyHost, other: Any):
    ours, theirs = host.weight_names(), set(other.weight_names())
    assert {n for n in theirs if n.startswith("transformer.")} == {
        n for n in ours if n.startswith("transformer.")
    }
    assert set(ours) <= theirs  # ComfyUI's norms of Qwen3 are no layers of its own
    for name in ours:
        assert torch.equal(host.weight(name), other.weight(name)), name
    linear = [n for n in host.weight_names() if Role.LINEAR in roles_of(n)]
    assert len(linear) == 10 * BLOCKS  # what LoRAs of this family train
    for ours, theirs in zip(host.sites.layers, other.sites.layers, strict=True):
        assert (ours.name, ours.roles, ours.rows) == (theirs.name, theirs.roles, theirs.rows)
        assert ours.weight in linear or not ours.roles
    assert host.fingerprint == other.fingerprint


@pytest.mark.parametrize("text", [PROMPT, "", "teapot", "1girl, \u9f98, (masterpiece), foo_(bar)"])
def test_contexts_and_tokens_are_the_same(host: ComfyHost, other: Any, text: str):
    ours, theirs = host.encode_prompt(text), other.encode_prompt(text)
    assert (ours.tokens, ours.content) == (theirs.tokens, theirs.content)
    assert (tuple(ours.context.shape), len(ours.tokens)) == ((1, 512, 64), 512)
    assert sum(ours.content) == len([t for t in ours.tokens if t not in (0, 1)])
    torch.testing.assert_close(ours.context, theirs.context, rtol=0, atol=1e-5)


@pytest.mark.parametrize("size", [(12, 20), (13, 21)])
def test_velocity_is_the_same_in_both_hosts(host: ComfyHost, other: Any, size: tuple[int, int]):
    latent = noise(2, 16, *size, seed=3)
    prompts = [host.encode_prompt(PROMPT), host.encode_prompt("a cat")]
    ours = host.predict(latent, TIMES, prompts, conditional=[True, False])
    theirs = other.predict(latent, TIMES, prompts, conditional=[True, False])
    assert ours.shape == latent.shape
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5 * float(ours.abs().max()))


def test_velocity_is_what_the_hosts_own_sampler_computes(graph: Graph, host: ComfyHost):
    clip, found = graph.clip, []
    conds = [clip.encode_from_tokens_scheduled(clip.tokenize(t)) for t in (PROMPT, "blurry")]
    guider = comfy.samplers.CFGGuider(graph.model)
    guider.inner_set_conds({"positive": conds[0], "negative": conds[1]})

    def sample(model, noise, sigmas, extra_args=None, **kwargs):
        every = [guider.conds[name] for name in ("positive", "negative")]
        x, sigma = LATENT.unsqueeze(2), torch.full((2,), 0.7)
        found.extend(
            comfy.samplers.calc_cond_batch(
                guider.inner_model, every, x, sigma, guider.model_options
            )
        )
        return noise

    start = torch.zeros_like(LATENT).unsqueeze(2)
    guider.sample(start, start, comfy.samplers.KSAMPLER(sample), torch.tensor([1.0, 0.0]))
    at = torch.full((2,), 0.7)
    for text, denoised in zip((PROMPT, "blurry"), found, strict=True):
        ours = host.predict(LATENT, at, [host.encode_prompt(text)])
        x_0 = host.noise_path.denoised(LATENT, ours, at)
        torch.testing.assert_close(x_0, denoised.squeeze(2), rtol=0, atol=2e-5)


def word_map(host: Any, prompt: Any) -> torch.Tensor:
    capture = AttentionCapture(host.sites.transformers)
    host.predict(LATENT[:1], TIMES[:1], [prompt], [capture])
    places = prompt.find(host.tokenize("teapot"))
    assert len(places) == 2  # tea-pot
    return capture.maps([TokenQuery(0, places, len(prompt.tokens))])


def test_maps_are_the_same_and_tell_shares_among_words(host: ComfyHost, other: Any):
    prompt = host.encode_prompt(PROMPT)
    ours, theirs = word_map(host, prompt), word_map(other, prompt)
    assert ours.shape == (1, 6, 10)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)
    capture = AttentionCapture(host.sites.transformers)
    host.predict(LATENT[:1], TIMES[:1], [prompt], [capture])
    words = tuple(i for i, is_word in enumerate(prompt.content) if is_word)
    every = capture.maps([TokenQuery(0, words, 512)])
    torch.testing.assert_close(every, torch.ones_like(every))


def test_blocks_that_locate_words_are_read(host: ComfyHost):
    assert sites_to_read(host.sites, (64, 64)) == list(host.sites.finders)
    assert sites_to_read(host.sites, (64, 64), 2) == list(host.sites.finders)
    with pytest.raises(ConfigError, match="0 or 2 for this model"):
        sites_to_read(host.sites, (64, 64), 4)


class Everywhere(UNetEdit):
    """Adds one number at every layer on the grid, in one corner of it."""

    def __init__(self) -> None:
        self.seen: dict[str, tuple[int, ...]] = {}

    def wanted_layers(self, sites):
        return [site for site in sites.layers if site.rows is Rows.GRID]

    def layer(self, site, inputs, output, info):
        self.seen[site.name] = tuple(output.shape[:2])
        assert inputs.shape[:2] == output.shape[:2] == (2, 60)
        assert info.grid(site) == (6, 10)
        corner = torch.zeros(60)
        corner[:7] = 0.1
        return output + corner[:, None]


def test_edits_of_every_layer_are_the_same(host: ComfyHost, other: Any, graph: Graph):
    before = state_of(graph.model)
    prompt, edits = host.encode_prompt(PROMPT), (Everywhere(), Everywhere())
    plain = host.predict(LATENT, TIMES, [prompt])
    ours = host.predict(LATENT, TIMES, [prompt], [edits[0]])
    theirs = other.predict(LATENT, TIMES, [prompt], [edits[1]])
    assert edits[0].seen == edits[1].seen
    assert len(edits[0].seen) == 8 * BLOCKS + 2
    assert (ours - plain).abs().max() > 0.01
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5 * float(ours.abs().max()))
    assert_same_state(graph.model, before)


@pytest.mark.parametrize("kind", ["FLOW", "FLOW_COSMOS", "FLUX"])
def test_flows_of_the_host_are_read_as_it_samples_them(kind: str):
    config = {
        "FLOW": comfy.supported_models.Anima,
        "FLOW_COSMOS": comfy.supported_models.CosmosT2IPredict2,
        "FLUX": comfy.supported_models.Krea2,
    }[kind]
    sampling = comfy.model_base.model_sampling(
        config({"image_model": "anima"}), comfy.model_base.ModelType[kind]
    )
    path = noise_path_of(sampling)
    assert path.name == "flow"
    assert clock_of(sampling, path) == pytest.approx(1.0)
    clean, drawn, output = (noise(1, 16, 4, 4, seed=i) for i in (1, 2, 3))
    for level in (0.3, 0.8, 0.95):
        t = path.timestep_at(level)
        sigma = torch.tensor([level])
        noisy = sampling.noise_scaling(sigma, drawn.clone(), clean.clone())  # x_s
        x_t = sampling.calculate_input(sigma, noisy)
        torch.testing.assert_close(path.add_noise(clean, drawn, t).float(), x_t)
        torch.testing.assert_close(path.input_scale(level) * noisy, x_t)
        theirs = sampling.calculate_denoised(sigma, output, noisy)
        torch.testing.assert_close(path.denoised_at(noisy, output, level), theirs)
        torch.testing.assert_close(path.denoised(x_t, output, t).float(), theirs)
        exact = path.target(clean, drawn, t)
        torch.testing.assert_close(path.denoised(x_t, exact, t).float(), clean)
    levels = path.levels(6)
    assert len(levels) == 7
    assert bool((levels[:-1] > levels[1:]).all())
    assert float(levels[0]) == pytest.approx(float(sampling.sigma_max), rel=1e-3)
    assert path.numbered(500) == pytest.approx(0.5)


def test_guidance_takes_the_blocks_that_locate_words(host: ComfyHost):
    sites = host.sites
    assert guided_sites(sites) == list(sites.finders) == guided_sites(sites, 2)
    with pytest.raises(ConfigError, match="one of 2 for this model"):
        guided_sites(sites, 4)
