"""CLiC on Anima from end to end in both hosts: losses, a short training, edits, guidance."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from anima_models import BLOCKS, anima, in_diffusers
from executor import Executor, given, node
from test_anima_concepts import concept_of
from test_anima_training import SIDE, assert_close, encoded, scene
from test_anima_weaver import world as world
from test_blended_nodes import QUICK
from tiny_models import Graph, assert_same_state, state_of

from conceptloom.attention.maps import AttentionCapture, TokenQuery
from conceptloom.concepts.concept import weight_edits
from conceptloom.host.comfyui.host import ComfyHost
from conceptloom.methods.clic import CLiCConfig, learn_detail
from conceptloom.methods.clic.config import Form
from conceptloom.methods.clic.matching import MatchConfig, ReadConfig, match_regions
from conceptloom.methods.clic.recipe import CLiC
from conceptloom.samplers.blended import BlendConfig
from conceptloom.samplers.editing import EditConfig, Region, edit_latents
from conceptloom.samplers.guidance import (
    AttentionTarget,
    GuidanceConfig,
    attention_distance,
    guided_sites,
    latent_gradient,
    moved,
)
from conceptloom.training.adapters import Scope
from conceptloom.training.phases import WEIGHTS, TokenPhase, WeightPhase
from conceptloom.training.previews import PreviewConfig

pytestmark = pytest.mark.usefixtures("folders")
LATENT = torch.randn(1, 16, 8, 12, generator=torch.Generator().manual_seed(4))
MASK = torch.zeros(64, 96)
MASK[:, :48] = 1


def without_vae(host: Any) -> Any:
    host.encode_image, host.pixels_per_latent = encoded, 8
    return host


@pytest.fixture
def host() -> ComfyHost:
    models = anima()
    return without_vae(ComfyHost(models.model, models.clip))


@pytest.fixture(scope="module")
def other() -> Any:
    pytest.importorskip("diffusers")
    return without_vae(in_diffusers(anima()))


def config(**more: Any) -> CLiCConfig:
    usual: dict[str, Any] = {
        "object_word": "chair",
        "token_phase": TokenPhase(steps=1),
        "weight_phase": WeightPhase(steps=2, scope=Scope.LOW_RANK, rank=2),
        "batch_size": 2,
        "views": 2,
        "checkpointing": False,
        "resolution_px": 0,
    }
    return CLiCConfig(**(usual | more))


def step(host: Any, seed: int, **more: Any) -> tuple[dict[str, float], dict[str, torch.Tensor]]:
    """Losses and gradients of one batch of the second phase; low-rank factors are off 0."""
    with torch.inference_mode(False):
        recipe = CLiC(host, scene(), config(**more))
    phase = recipe.phases()[1]
    assert phase.name == WEIGHTS
    parameters = recipe.named_parameters()
    with torch.inference_mode(False), torch.no_grad():
        for i, (name, value) in enumerate(sorted(parameters.items())):
            if name.endswith(".up"):
                value.normal_(std=0.1, generator=torch.Generator().manual_seed(i))
    with torch.inference_mode(False), torch.enable_grad(), recipe.computing(phase):
        terms = recipe.losses(phase, torch.Generator().manual_seed(seed))
        sum(terms.values()).backward()
    return (
        {name: float(term) for name, term in terms.items()},
        {n: p.grad.clone() for n, p in parameters.items() if p.grad is not None},
    )


@pytest.mark.parametrize("form", list(Form))
def test_the_three_losses_are_the_same_in_both_hosts(host: ComfyHost, other: Any, form: Form):
    how = {"context_form": form, "roi_form": form}
    seed = next(s for s in range(20) if _is_located(host, s))
    losses, gradients = step(host, seed, **how)
    theirs = step(other, seed, **how)
    assert set(losses) == {"context", "attention", "roi"}
    assert all(loss > 0 for loss in losses.values())
    for name, loss in losses.items():
        assert loss == pytest.approx(theirs[0][name], rel=1e-5), name
    assert len(gradients) >= 2 + 2 * 10 * BLOCKS
    assert_close(gradients, theirs[1])


def _is_located(host: ComfyHost, seed: int) -> bool:
    """Whether a batch of this seed has a noise level at which words are located."""
    return step(host, seed)[0]["attention"] > 0


def edited(host: Any, **more: Any) -> torch.Tensor:
    concept = concept_of(host)
    prompt = host.encode_prompt("a chair with <my-cat> style", concept.handles)
    config = EditConfig(
        steps=4, cfg=3.0, blend=BlendConfig(start=1), guidance=GuidanceConfig(eta=0.02, steps=3),
        **more,
    )  # fmt: skip
    regions = [Region(prompt, MASK, ("<my-cat>",))]
    weights = weight_edits(concept)
    plain = host.encode_prompt("a chair")
    return edit_latents(
        host, LATENT, regions, host.encode_prompt(""), config, weights=weights, plain=plain, seed=2
    )


def test_a_blended_edit_is_the_same_in_both_hosts_and_exact_outside(host: ComfyHost, other: Any):
    before = state_of(anima().model), state_of(anima().clip.patcher)
    with torch.inference_mode(False):
        ours, theirs = edited(host), edited(other)
        harmonised = edited(host, harmonise_steps=2)
    assert torch.equal(ours[..., 6:].cpu(), LATENT[..., 6:])
    assert not torch.allclose(ours[..., :6].cpu(), LATENT[..., :6], atol=0.1)
    # a sign of the guidance may differ where the gradient is nearly 0
    apart = (ours - theirs).abs()[..., :6].flatten()  # outside nothing can differ
    assert float(apart.quantile(0.9)) < 1e-5 * float(ours.abs().max())
    assert not torch.equal(harmonised, ours)
    assert_same_state(anima().model, before[0])
    assert_same_state(anima().clip.patcher, before[1])


def test_without_guidance_the_edits_are_equal(host: ComfyHost, other: Any):
    results = []
    for one in (host, other):
        prompt = one.encode_prompt("a red chair")
        config = EditConfig(steps=4, cfg=3.0, blend=BlendConfig(start=0))
        regions = [Region(prompt, MASK), Region(one.encode_prompt("a blue cat"), 1 - MASK)]
        results.append(edit_latents(one, LATENT, regions, one.encode_prompt(""), config, seed=2))
    size = float(results[0].abs().max())
    torch.testing.assert_close(*results, rtol=0, atol=1e-5 * size)


def test_guidance_pulls_a_word_into_its_mask(host: ComfyHost):
    prompt, at = host.encode_prompt("a red cat on grass"), torch.tensor([0.75])
    words = prompt.find(host.tokenize("cat"))
    target = [AttentionTarget(words, len(prompt.tokens), MASK)]
    sites = guided_sites(host.sites)

    def distance(latent: torch.Tensor) -> float:
        capture = AttentionCapture(sites)
        host.predict(latent, at, [prompt], [capture])
        assert capture.maps([TokenQuery(0, words, len(prompt.tokens))]).shape[-2:] == (4, 6)
        return float(attention_distance(capture, target, 1, (8, 12)))

    with torch.inference_mode(False), host.edited({}, trainable=True):
        gradient = latent_gradient(
            lambda moving, capture: host.predict(moving, at, [prompt], [capture]),
            LATENT, target, sites,
        )  # fmt: skip
    pulled = moved(LATENT, gradient, GuidanceConfig(eta=0.05))
    assert distance(pulled) < distance(LATENT)


@pytest.mark.parametrize("which", ["comfyui", "diffusers"])
def test_a_detail_is_learned_and_carried_over(world: Graph, tmp_path: Any, which: str):
    """All of it on TinyWorld's Anima with random weights."""
    host: Any = ComfyHost(world.model, world.clip, world.vae)
    if which == "diffusers":
        from unit.tiny_transformers import random_file

        from conceptloom.host.diffusers import AnimaHost

        with torch.inference_mode(False):
            host = AnimaHost.tinyworld(random_file("anima", tmp_path / "anima.safetensors"))
    before = state_of(world.model)
    with torch.inference_mode(False):
        result = learn_detail(
            host, scene(), config(batch_size=1, checkpointing=True),
            previews=PreviewConfig(steps=2, cfg=2.0),
        )  # fmt: skip
        concept = result.concept
        assert set(concept.handles) == {"mug", "cat"}
        source = host.encode_image(torch.rand(1, SIDE, SIDE, 3))
        mask = torch.zeros(SIDE, SIDE)
        mask[:, : SIDE // 2] = 1
        prompt = host.encode_prompt("a chair with <mug> style", concept.handles)
        drawn = edit_latents(
            host, source, [Region(prompt, mask, ("<mug>",))], host.encode_prompt(""),
            EditConfig(steps=3, cfg=2.0, blend=BlendConfig(start=1)),
            weights=weight_edits(concept),
        )  # fmt: skip
    half = source.shape[-1] // 2
    assert torch.equal(drawn[..., half:], source[..., half:])
    assert not torch.equal(drawn[..., :half], source[..., :half])
    assert_same_state(world.model, before)


def test_regions_are_matched(host: ComfyHost):
    """RoI matching reads the maps of the blocks that locate words."""
    pictures = torch.rand(2, 64, 64, 3, generator=torch.Generator().manual_seed(1))
    mask = torch.zeros(64, 64)
    mask[8:40, 8:40] = 1
    learning = config(
        token_phase=TokenPhase(steps=1), weight_phase=WeightPhase(steps=0), batch_size=1
    )
    with torch.inference_mode(False):
        matching = MatchConfig(learning=learning, reading=ReadConfig(steps=2))
        found = match_regions(
            host, concept_of(host), pictures[0], mask, [pictures[1]], matching, name="my-cat"
        )
    assert found[0].heat.shape == (64, 64)
    assert 0 < float(found[0].mask.mean()) < 1


def test_the_node_edits_exactly_outside_of_the_mask(executor: Executor, world: Graph):
    image = torch.rand(1, SIDE, SIDE, 3, generator=torch.Generator().manual_seed(0))
    mask = torch.zeros(2, SIDE, SIDE)
    mask[0, :32, :32] = 1
    mask[1, 32:, :32] = 1
    before = state_of(world.model)
    values = {"model": world.model, "clip": world.clip, "vae": world.vae, "image": image,
              "mask": mask}  # fmt: skip
    links = {name: given(name) for name in values}
    for prompts, last in (("a red cat", 0), ("a red cat\na blue dog", 2)):
        inputs = {**QUICK, "scheduler": "simple", "prompts": prompts, "harmonise_steps": last}
        graph = {"1": node("MaskedBlendedEdit", **links, **inputs)}
        result = executor.run(graph, values, picture=["1", 0], latent=["1", 1])
        assert result.error == ""
        picture = result.values["picture"]
        assert torch.equal(picture[:, :, 32:], image[:, :, 32:])
        assert not torch.allclose(picture[:, :, :28], image[:, :, :28], atol=0.02)
        if not last:
            source = world.vae.encode(image)
            found = result.values["latent"]["samples"]
            half = source.shape[-1] // 2
            torch.testing.assert_close(
                found.reshape(source.shape)[..., half:], source[..., half:], rtol=0, atol=1e-4
            )
    assert_same_state(world.model, before)
