"""TinyWorld's Anima, with random weights: learning, steering and drawing, from end to end."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from nodes import KSampler
from tiny_models import Graph, assert_same_state, state_of

sys.path.append(str(Path(__file__).parents[1]))

pytest.importorskip("diffusers")

from unit.tiny_transformers import random_file

from conceptloom.attention.maps import AttentionCapture, TokenQuery
from conceptloom.concepts.concept import Concept
from conceptloom.host.comfyui.gradient_guidance import with_steering
from conceptloom.host.comfyui.host import ComfyHost
from conceptloom.host.comfyui.sampling import named_sampler, run_sampler, sigmas_of
from conceptloom.host.comfyui.tinyworld_dit import load_tinyworld_dit
from conceptloom.host.diffusers import AnimaHost
from conceptloom.methods.break_a_scene import (
    BreakASceneConfig,
    ClassImages,
    TokenPhase,
    WeightPhase,
    learn_scene,
)
from conceptloom.nodes.shared import applied
from conceptloom.scenes.scene import ConceptScene, make_scene
from conceptloom.training.adapters import Scope
from conceptloom.training.previews import PreviewConfig

SIDE = 64


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with torch.inference_mode(False):
        return random_file("anima", tmp_path_factory.mktemp("dit") / "anima.safetensors")


@pytest.fixture(scope="module")
def graph(path: Path) -> Graph:
    with torch.inference_mode():
        return Graph(*load_tinyworld_dit("anima", path))


@pytest.fixture(scope="module")
def other(path: Path) -> AnimaHost:
    with torch.inference_mode(False):
        return AnimaHost.tinyworld(path)


def scene() -> ConceptScene:
    generator, masks = torch.Generator().manual_seed(0), []
    for left in (0, SIDE // 2):
        mask = torch.zeros(SIDE, SIDE)
        mask[8:-8, left : left + SIDE // 2] = 1
        masks.append([mask])
    picture = torch.rand(SIDE, SIDE, 3, generator=generator)
    return make_scene([picture], {"a": masks[0], "b": masks[1]}, {"a": "mug", "b": "fish"})


def learned(host: Any) -> Concept:
    config = BreakASceneConfig(
        token_phase=TokenPhase(steps=1),
        weight_phase=WeightPhase(steps=2, scope=Scope.LOW_RANK, rank=2),
        class_images=ClassImages(draw=1, steps=2, prompt="a photo of a mug"),
        resolution_px=0,
        batch_size=1,
        checkpointing=True,
    )
    previews = PreviewConfig(steps=2, cfg=2.0)
    with torch.inference_mode(False):
        return learn_scene(host, scene(), config, previews=previews).concept


def test_pictures_are_encoded_the_same(graph: Graph, other: AnimaHost):
    host = ComfyHost(graph.model, graph.clip, graph.vae)
    picture = torch.rand(2, SIDE, SIDE, 3, generator=torch.Generator().manual_seed(1))
    ours, theirs = (one.encode_image(picture) for one in (host, other))
    assert host.pixels_per_latent == other.pixels_per_latent
    assert host.fingerprint == other.fingerprint
    torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-5 * float(ours.abs().max()))
    drawn = [one.decode_latent(ours) for one in (host, other)]
    torch.testing.assert_close(*drawn, rtol=0, atol=2e-3)


def test_break_a_scene_learns_and_its_concept_is_applied(graph: Graph, other: AnimaHost):
    before = state_of(graph.model), state_of(graph.clip.patcher)
    concepts = [learned(ComfyHost(graph.model, graph.clip, graph.vae)), learned(other)]
    for concept in concepts:
        assert set(concept.handles) == {"a", "b"}
        assert all(name.startswith("transformer.blocks.") for name in concept.weights)
    assert set(concepts[0].weights) == set(concepts[1].weights)
    for name, change in concepts[0].weights.items():
        ours, theirs = (c.weights[name].delta(change.shape) for c in concepts)
        assert float((ours - theirs).abs().max()) < 0.1 * float(ours.abs().max()) + 1e-6, name
    assert_same_state(graph.model, before[0])
    assert_same_state(graph.clip.patcher, before[1])
    model, clip = applied(graph.model, graph.clip, concepts[0], 1.0)
    drawn = []
    for one, words in ((graph, "a mug and a fish"), (Graph(model, clip, None), "<a> and <b>")):
        prompts = [one.clip.encode_from_tokens_scheduled(one.clip.tokenize(t)) for t in (words, "")]
        empty = {"samples": torch.zeros(1, 4, 8, 8)}
        drawn.append(
            KSampler().sample(one.model, 5, 2, 2.0, "euler", "simple", *prompts, empty, 1.0)[0]
        )
    shapes = {tuple(one["samples"].shape) for one in drawn}
    assert len(shapes) == 1
    assert not torch.equal(drawn[0]["samples"], drawn[1]["samples"])


class Toward:
    """Steers so that a word is looked at more, in every step."""

    def __init__(self) -> None:
        self.gradients: list[torch.Tensor] = []

    def wants(self, step: int) -> bool:
        return True

    def sees(self, tokens: Any) -> bool:
        return True

    def gradient(self, forward: Any, latent: torch.Tensor, sites: Any, tokens: Any) -> torch.Tensor:
        moving = latent.clone().requires_grad_(True)
        capture = AttentionCapture(sites.finders)
        forward(moving, capture)
        loss = -capture.maps([TokenQuery(0, (1,), len(tokens))]).square().sum()
        (gradient,) = torch.autograd.grad(loss, moving)
        self.gradients.append(gradient)
        return gradient

    def moved(self, latent: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
        return latent - gradient / gradient.abs().max()


def test_steering_by_attention_reaches_the_latents(graph: Graph):
    before, toward = state_of(graph.model), Toward()
    model = with_steering(graph.model, "test", lambda prompts: toward)
    prompts = [
        graph.clip.encode_from_tokens_scheduled(graph.clip.tokenize(t)) for t in ("a mug", "")
    ]
    empty = {"samples": torch.zeros(1, 4, 8, 8)}
    sigmas = sigmas_of(graph.model, "simple", 2)
    drawn = [
        run_sampler(one, *prompts, 2.0, named_sampler("euler"), sigmas, empty, 5)["samples"]
        for one in (graph.model, model)
    ]
    assert len(toward.gradients) == 2
    assert all(float(g.abs().max()) > 0 for g in toward.gradients)
    assert not torch.allclose(*drawn, atol=1e-4)
    again = run_sampler(
        graph.model, *prompts, 2.0, named_sampler("euler"), sigmas, {"samples": drawn[0]}, 5
    )
    assert again["samples"].shape == drawn[0].shape
    assert_same_state(graph.model, before)
