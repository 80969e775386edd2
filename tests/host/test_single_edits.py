"""Blended edits and guidance on Z-Image and Krea 2: flows, in both hosts and under any sampler."""

from __future__ import annotations

from typing import Any

import comfy.samplers
import torch
from test_single_local import PROMPT, drawn
from test_single_python import python_host
from test_steering import Guide
from tiny_models import Graph, assert_same_state, state_of
from tiny_single import single_graph, single_kind

from conceptloom.host.comfyui.gradient_guidance import with_steering
from conceptloom.host.comfyui.host import ComfyHost
from conceptloom.host.comfyui.texts import telling_clip
from conceptloom.nodes.blended import blended_sampler
from conceptloom.samplers.blended import BlendConfig
from conceptloom.samplers.editing import EditConfig, Region, edit_latents
from conceptloom.samplers.guidance import (
    AttentionTarget,
    GuidanceConfig,
    Rule,
    guided_sites,
    latent_gradient,
)

SOURCE = torch.randn(1, 16, 10, 12, generator=torch.Generator().manual_seed(6))
MASK = torch.zeros(80, 96)
MASK[:, :48] = 1


kind, graph = single_kind, single_graph


def test_an_edit_is_the_same_in_both_hosts(kind: str, graph: Graph):
    guidance = GuidanceConfig(eta=0.5, steps=2, rule=Rule.GRADIENT)
    results = []
    for host in (ComfyHost(graph.model, graph.clip), python_host(kind, graph)):
        with torch.inference_mode(False):
            prompt = host.encode_prompt(PROMPT)
            for guide in (GuidanceConfig(eta=0.0), guidance):
                config = EditConfig(steps=4, cfg=2.0, blend=BlendConfig(start=1), guidance=guide)
                region = Region(prompt, MASK, ("teapot",))
                negative = host.encode_prompt("")
                results.append(
                    edit_latents(host, SOURCE.clone(), [region], negative, config, seed=3).cpu()
                )
    plain, guided, their_plain, their_guided = results
    for ours, theirs in ((plain, their_plain), (guided, their_guided)):
        torch.testing.assert_close(ours[..., 6:], SOURCE[..., 6:])
        assert (ours - SOURCE)[..., :6].abs().max() > 0.1
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)
    assert (guided - plain).abs().max() > 1e-3


def test_the_sampler_keeps_the_picture_around_the_mask(kind: str, graph: Graph):
    clip = telling_clip(graph.clip)
    conditioning = clip.encode_from_tokens_scheduled(clip.tokenize(PROMPT))
    guider = comfy.samplers.CFGGuider(graph.model)
    guider.set_conds(conditioning, conditioning)
    guider.set_cfg(1.0)
    sampling = graph.model.get_model_object("model_sampling")
    sigmas = comfy.samplers.calculate_sigmas(sampling, "simple", 4)
    form = graph.model.get_model_object("latent_format")
    source = SOURCE[:, :, None] if form.latent_dimensions == 3 else SOURCE
    noise = torch.randn(source.shape, generator=torch.Generator().manual_seed(1))
    sampler = blended_sampler(BlendConfig(start=1), MASK)
    drawn_latent = guider.sample(noise, source, sampler, sigmas, seed=5)
    torch.testing.assert_close(drawn_latent[..., 6:], source[..., 6:], rtol=1e-5, atol=1e-5)
    assert (drawn_latent - source)[..., :6].abs().max() > 0.1


def test_guidance_under_a_sampler_is_the_hosts_own_gradient(kind: str, graph: Graph):
    host, before = ComfyHost(graph.model, graph.clip), state_of(graph.model)
    clip, guide = telling_clip(graph.clip), Guide(host.tokenize("teapot"))
    model = with_steering(graph.model, "test.guide", lambda prompts: guide, checkpointing=True)
    plain, guided = (drawn(one, clip, steps=3) for one in (graph.model, model))
    assert guided.isfinite().all()
    assert (guided - plain).abs().max() > 1e-3
    assert len(guide.gradients) == 2
    assert_same_state(graph.model, before)
    latent, gradient = guide.gradients[0]
    prompt = host.encode_prompt(PROMPT)
    piece = prompt.find(host.tokenize("teapot"))
    at = host.noise_path.levels(3)[:1]

    def forward(moving: Any, edit: Any) -> object:
        return host.predict(moving, at, [prompt], [edit])

    with host.edited({}, trainable=True):
        expected = latent_gradient(
            forward, latent.clone(), [AttentionTarget(piece, len(prompt.tokens))],
            guided_sites(host.sites),
        )  # fmt: skip
    size = float(expected.abs().max())
    assert size > 0
    assert float((expected - gradient).abs().max()) <= 1e-3 * size
