"""Guidance under the host's own samplers: exact, composing, and gone when the run is over."""

from __future__ import annotations

import sys
from typing import NamedTuple

import comfy.model_management
import pytest
import torch
from comfy.patcher_extension import WrappersMP
from executor import load_pack, pack_nodes
from nodes import KSampler
from tiny_models import Graph, assert_same_state, graph_of, left_behind, make_graph, state_of

from conceptloom.attention.fusion import RegionFusion, RegionSource
from conceptloom.attention.maps import AttentionCapture, TokenQuery
from conceptloom.concepts.concept import Diff, LowRank
from conceptloom.errors import PromptError
from conceptloom.host.comfyui.edits import with_edits
from conceptloom.host.comfyui.gradient_guidance import with_steering
from conceptloom.host.comfyui.host import ComfyHost
from conceptloom.host.comfyui.prompts import clip_with_handles
from conceptloom.host.ports import Role, UNetEdit, find_run
from conceptloom.samplers.guidance import (
    AttentionTarget,
    GuidanceConfig,
    guided_sites,
    latent_gradient,
    moved,
)

STRONG = GuidanceConfig(eta=0.1, steps=2)


class Guide:
    """Guidance of one word."""

    def __init__(self, piece, config=STRONG) -> None:
        self.piece, self.config, self.gradients = piece, config, []

    def wants(self, step):
        return self.config.wants(step)

    def sees(self, tokens):
        return bool(find_run(tokens, self.piece))

    def gradient(self, forward, latent, sites, tokens):
        attention_targets = [AttentionTarget(find_run(tokens, self.piece), len(tokens))]
        found = latent_gradient(forward, latent, attention_targets, guided_sites(sites))
        self.gradients.append((latent.clone(), found))
        return found

    def moved(self, latent, gradient):
        return moved(latent, gradient, self.config)


def sample(graph: Graph, model, *, text="a red cat", steps=3, cfg=3.0, sampler="euler", mask=None):
    clip = clip_with_handles(graph.clip, {})
    positive, negative = (
        clip.encode_from_tokens_scheduled(clip.tokenize(t)) for t in (text, "dull, " * 40)
    )
    latent = {"samples": torch.zeros(2, 4, 8, 8)}
    if mask is not None:
        latent = {"samples": torch.ones(2, 4, 8, 8), "noise_mask": mask}
    return KSampler().sample(
        model, 5, steps, cfg, sampler, "normal", positive, negative, latent, 1.0
    )[0]["samples"]


def steered(graph: Graph, config=STRONG, **more):
    guides: list[Guide] = []
    piece = ComfyHost(graph.model, graph.clip).tokenize("cat")

    def make(prompts):
        guides.append(Guide(piece, config))
        return guides[-1]

    return with_steering(graph.model, "test", make, **more), guides


def test_the_gradient_is_the_ports_own(graph: Graph):
    """Through a sampler, in inference mode, and through `ComfyHost.predict` with autograd."""
    model, guides = steered(graph)
    sample(graph, model, cfg=1.0)
    latent, found = guides[0].gradients[0]
    host = ComfyHost(graph.model, graph.clip)
    with host.edited({}, trainable=True):
        prompt = host.encode_prompt("a red cat")
        attention_targets = [AttentionTarget(prompt.find(host.tokenize("cat")), len(prompt.tokens))]
        at = torch.full((2,), 999)
        expected = latent_gradient(
            lambda moving, capture: host.predict(moving, at, [prompt], [capture]),
            latent.clone(), attention_targets, guided_sites(host.sites),
        )  # fmt: skip
    assert found.abs().max() > 0
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-6 * float(expected.abs().max()))


def test_guidance_changes_the_picture_and_nothing_is_left(graph: Graph):
    plain, before = sample(graph, graph.model), state_of(graph.model)
    model, guides = steered(graph)
    guided = sample(graph, model)
    assert not torch.allclose(guided, plain, atol=1e-2)
    assert guided.isfinite().all()
    assert len(guides[0].gradients) == 2
    assert_same_state(graph.model, before)
    assert torch.equal(sample(graph, graph.model), plain)
    assert torch.equal(sample(graph, model), guided)


def test_no_strength_changes_nothing_bit_for_bit(sd1: Graph):
    model, _ = steered(sd1, GuidanceConfig(eta=0.0))
    assert torch.equal(sample(sd1, model), sample(sd1, sd1.model))


@pytest.mark.parametrize("sampler", ["dpmpp_2m", "heun", "uni_pc", "dpm_2"])
def test_any_sampler_is_guided(sd1: Graph, sampler: str):
    model, _ = steered(sd1)
    plain = sample(sd1, sd1.model, sampler=sampler)
    assert not torch.allclose(sample(sd1, model, sampler=sampler), plain, atol=1e-2)


def test_a_move_outlives_its_step(sd1: Graph):
    """Guided once with a step so small that the model would not notice: the picture still moves."""
    model, guides = steered(sd1, GuidanceConfig(eta=0.1, steps=1))
    sample(sd1, model)
    moved_by = guides[0].moved(*guides[0].gradients[0]) - guides[0].gradients[0][0]
    assert moved_by.abs().max().item() == pytest.approx(0.1, rel=1e-4)


def test_a_noise_mask_is_kept(sd1: Graph):
    mask = torch.zeros(1, 1, 8, 8)
    mask[..., :4] = 1
    model, guides = steered(sd1)
    guided = sample(sd1, model, mask=mask)
    assert guides[0].gradients
    torch.testing.assert_close(guided[..., 5:], torch.ones(2, 4, 8, 3), atol=1e-3, rtol=0)
    plain = sample(sd1, sd1.model, mask=mask)
    assert not torch.allclose(guided[..., :4], plain[..., :4], atol=1e-2)


def test_memory_may_be_saved(sd1: Graph):
    model, _ = steered(sd1)
    saving, _ = steered(sd1, checkpointing=True)
    torch.testing.assert_close(sample(sd1, saving), sample(sd1, model), rtol=1e-3, atol=1e-3)
    assert left_behind(sd1.model.model) == []


def test_edits_and_patches_of_others_take_part(sd1: Graph):
    class Halve(UNetEdit):
        def wanted_layers(self, sites):
            return [site for site in sites.layers if Role.PROJ_OUT in site.roles]

        def layer(self, site, inputs, output, info):
            return output * 0.5

    seen = []

    def replaced(q, k, v, extra):
        seen.append(torch.is_grad_enabled())
        heads = extra["n_heads"]
        q, k, v = (t.unflatten(-1, (heads, -1)).transpose(1, 2) for t in (q, k, v))
        out = torch.nn.functional.scaled_dot_product_attention(q, k, v)
        return out.transpose(1, 2).flatten(2)

    model, guides = steered(sd1)
    model = with_edits(model, "halve", lambda run: [Halve()])
    model.set_model_attn2_replace(replaced, "output", 5)
    model.add_patches({"diffusion_model.middle_block.1.proj_out.bias": ("diff", (torch.ones(64),))})
    patched = sd1.model.clone()
    patched = with_edits(patched, "halve", lambda run: [Halve()])
    patched.set_model_attn2_replace(replaced, "output", 5)
    plain = sample(sd1, patched)
    assert not torch.allclose(sample(sd1, model), plain, atol=1e-2)
    assert {True, False} == set(seen)
    alone, only = steered(sd1)
    sample(sd1, alone)
    assert not torch.allclose(guides[0].gradients[0][1], only[0].gradients[0][1])


def test_options_of_other_packs_reach_a_guided_pass_as_they_are(sd1: Graph):
    class Settings(NamedTuple):
        strength: float
        seen: list

    model, guides = steered(sd1)
    mine, autograd = Settings(0.5, []), []

    def patch(n, extra):
        autograd.append(torch.is_grad_enabled())
        extra["other_pack"].seen.append(extra["other_pack"].strength)
        return n

    model.model_options["transformer_options"]["other_pack"] = mine
    model.set_model_attn2_output_patch(patch)
    sample(sd1, model)
    assert guides[0].gradients
    assert set(autograd) == {True, False}
    assert len(mine.seen) == len(autograd)


def test_a_control_net_takes_part_in_every_pass_of_a_gradient(sd1: Graph):
    maps = []

    class Twice(Guide):
        def gradient(self, forward, latent, sites, tokens):
            for _ in range(2):
                capture = AttentionCapture(guided_sites(sites))
                forward(latent, capture)
                maps.append(capture.maps([TokenQuery(0, (2,), 77)], (8, 8)).detach())
            return super().gradient(forward, latent, sites, tokens)

    def controlled(executor, x, t, concat, context, control, options, **more):
        return executor(x, t, concat, context, controls.pop(), options, **more)

    model = with_steering(sd1.model, "test", lambda prompts: Twice(piece))
    piece = ComfyHost(sd1.model, sd1.clip).tokenize("cat")
    model.add_wrapper_with_key(WrappersMP.APPLY_MODEL, "control", controlled)
    for given in (None, {"middle": [torch.ones(2, 64, 1, 1)]}):
        controls = [None] * 4 + [given]  # of the guided pass, which comes first
        sample(sd1, model, steps=1)
    plain, plain_again, first, second = maps
    assert torch.equal(plain, plain_again)
    assert not torch.equal(first, plain)
    assert torch.equal(second, first)


@pytest.mark.parametrize("left", [0.5, 1.0])
def test_concepts_and_masks_made_by_nodes_are_fused_in_a_guided_pass(sd1: Graph, left: float):
    """What nodes load, they load in inference mode, and autograd keeps none of that."""
    block = "unet.output_blocks.5.1"
    to_v, proj_out = f"{block}.transformer_blocks.0.attn2.to_v.weight", f"{block}.proj_out.weight"
    host = ComfyHost(sd1.model, sd1.clip)
    whole = Diff(torch.ones(host.weight(to_v).shape) / 8)
    out, inner = host.weight(proj_out).shape[:2]
    residual = LowRank(torch.ones(out, 2) / 8, torch.ones(2, inner) / 8)
    masks = torch.zeros(2, 8, 8)  # as large as the largest map
    masks[0] = left
    masks[0, :, 4:] = 1 - left
    masks[1] = 1 - masks[0]
    assert masks.is_inference()
    assert residual.up.is_inference()
    cat, dog = (host.encode_prompt(text).context for text in ("a cat", "a dog"))

    def fuse(run):
        changes = {to_v: whole, proj_out: residual}
        return [RegionFusion([RegionSource(cat, changes), RegionSource(dog)], masks)]

    model, guides = steered(sd1)
    fused = sample(sd1, with_edits(model, "fuse", fuse))
    assert len(guides[0].gradients) == 2
    assert not torch.allclose(fused, sample(sd1, with_edits(sd1.model, "fuse", fuse)), atol=1e-2)


def test_two_guidances_compose(sd1: Graph):
    one, _ = steered(sd1, GuidanceConfig(eta=0.1, steps=1))
    both, _ = steered(Graph(one, sd1.clip, sd1.vae), GuidanceConfig(eta=0.1, steps=1))
    assert not torch.allclose(sample(sd1, both), sample(sd1, one), atol=1e-3)


@pytest.mark.parametrize("place", ["gradient", "callback"])
def test_cancelling_in_the_middle_leaves_the_model_as_it_was(sd1: Graph, place: str):
    plain, before = sample(sd1, sd1.model), state_of(sd1.model)
    flag = getattr(comfy.model_management, "in_training", None)

    class Stops(Guide):
        def gradient(self, forward, latent, sites, tokens):
            found = super().gradient(forward, latent, sites, tokens)
            if place == "gradient" and len(self.gradients) == 2:
                raise comfy.model_management.InterruptProcessingException
            return found

        def moved(self, latent, gradient):
            if place == "callback" and len(self.gradients) == 2:
                raise comfy.model_management.InterruptProcessingException
            return super().moved(latent, gradient)

    piece = ComfyHost(sd1.model, sd1.clip).tokenize("cat")
    model = with_steering(sd1.model, "test", lambda prompts: Stops(piece))
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        sample(sd1, model)
    assert torch.is_inference_mode_enabled()
    assert getattr(comfy.model_management, "in_training", None) == flag
    assert_same_state(sd1.model, before)
    assert torch.equal(sample(sd1, sd1.model), plain)


def test_half_precision_is_guided_or_left_alone():
    with torch.inference_mode():
        graph = make_graph("sd1", dtype=torch.float16)
    model, guides = steered(graph)
    found = sample(graph, model)
    assert found.isfinite().all()
    assert all(gradient.dtype is torch.float32 for _, gradient in guides[0].gradients)
    assert all(gradient.isfinite().all() for _, gradient in guides[0].gradients)


def test_a_word_that_the_prompt_does_not_hold_is_reported(sd1: Graph):
    load_pack()
    module = sys.modules[pack_nodes()["ConceptLoomCrossAttentionGuidance"].__module__]
    config = module.GuidanceConfig()
    words = module.target_words(sd1.model, sd1.clip, "dog", None)
    with pytest.raises(Exception, match="does not contain 'dog'") as told:
        sample(sd1, module.guided(sd1.model, words, config))
    assert type(told.value).__name__ == PromptError.__name__


def test_a_prompt_without_tokens_is_reported():
    graph = graph_of("sd1")
    load_pack()
    module = sys.modules[pack_nodes()["ConceptLoomCrossAttentionGuidance"].__module__]
    words = module.target_words(graph.model, graph.clip, "cat", None)
    model = module.guided(graph.model, words, module.GuidanceConfig())
    # A prompt that no other test encodes with a CLIP of ours: its vectors would be recognised.
    unknown = graph.clip.tokenize("nobody else asked for this cat")
    text = graph.clip.encode_from_tokens_scheduled(unknown)
    latent = {"samples": torch.zeros(1, 4, 8, 8)}
    with pytest.raises(Exception, match="CLIP output"):
        KSampler().sample(model, 5, 2, 3.0, "euler", "normal", text, text, latent, 1.0)
