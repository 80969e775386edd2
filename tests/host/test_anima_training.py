"""Break-A-Scene on Anima: loss and gradients are equal in both hosts, and those of a plain loop."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import comfy.model_management
import comfy.quant_ops
import comfy.sd
import pytest
import torch
import torch.nn.functional as F
from anima_models import BLOCKS, anima, in_diffusers
from safetensors.torch import load_file
from test_anima_concepts import concept_of
from test_anima_loras import AT, LATENT
from tiny_models import Graph, assert_same_state, state_of

from conceptloom.concepts.lora_export import export_embeddings, export_lora
from conceptloom.concepts.lora_file import lora_of
from conceptloom.concepts.lora_keys import key_map
from conceptloom.concepts.low_rank import LowRank
from conceptloom.host.comfyui.host import ComfyHost
from conceptloom.host.families.anima import ANIMA
from conceptloom.methods.break_a_scene import (
    BreakAScene,
    BreakASceneConfig,
    ClassImages,
    TokenPhase,
    WeightPhase,
)
from conceptloom.methods.break_a_scene.dataset import draw_samples
from conceptloom.nodes.shared import applied
from conceptloom.scenes.scene import ConceptScene, make_scene
from conceptloom.training.adapters import Scope
from conceptloom.training.phases import WEIGHTS

SIDE = 64  # px; 8 latents, 4 positions


@pytest.fixture
def graph() -> Graph:
    return anima()


def encoded(image: torch.Tensor) -> torch.Tensor:
    """In place of a VAE: means of 8x8 pixels, mixed into 16 channels."""
    mix = torch.randn(16, 3, generator=torch.Generator().manual_seed(9))
    return torch.einsum("bchw,oc->bohw", F.avg_pool2d(image.movedim(-1, 1), 8) - 0.5, mix)


def without_vae(host: Any) -> Any:
    host.encode_image, host.pixels_per_latent = encoded, 8
    return host


@pytest.fixture
def host(graph: Graph) -> ComfyHost:
    return without_vae(ComfyHost(graph.model, graph.clip))


@pytest.fixture(scope="module")
def other() -> Any:
    pytest.importorskip("diffusers")
    return without_vae(in_diffusers(anima()))


def scene() -> ConceptScene:
    generator, masks = torch.Generator().manual_seed(0), []
    for left in (0, 32):
        mask = torch.zeros(SIDE, SIDE)
        mask[8:56, left : left + 32] = 1
        masks.append([mask])
    picture = torch.rand(SIDE, SIDE, 3, generator=generator)
    return make_scene([picture], {"mug": masks[0], "cat": masks[1]}, {"mug": "cup", "cat": ""})


def recipe(host: Any, **config: Any) -> BreakAScene:
    usual: dict[str, Any] = {
        "token_phase": TokenPhase(steps=1),
        "weight_phase": WeightPhase(steps=1, scope=Scope.LOW_RANK, rank=2),
        "class_images": ClassImages(draw=0),
        "batch_size": 2,
        "checkpointing": False,
        "resolution_px": 0,
        "attention_weight": 0.1,
    }
    with torch.inference_mode(False):
        return BreakAScene(host, scene(), BreakASceneConfig(**(usual | config)))


def step(learned: BreakAScene, seed: int = 3) -> tuple[dict[str, float], dict[str, torch.Tensor]]:
    """Losses and gradients of one batch of the second phase; low-rank factors are off 0."""
    phase = learned.phases()[1]
    assert phase.name == WEIGHTS
    parameters = learned.named_parameters()
    with torch.inference_mode(False), torch.no_grad():
        for i, (name, value) in enumerate(sorted(parameters.items())):
            value.grad = None
            if name.endswith(".up"):
                value.normal_(std=0.1, generator=torch.Generator().manual_seed(i))
    with torch.inference_mode(False), torch.enable_grad(), learned.computing(phase):
        terms = learned.losses(phase, torch.Generator().manual_seed(seed))
        sum(terms.values()).backward()
    return (
        {name: float(term) for name, term in terms.items()},
        {n: p.grad.clone() for n, p in parameters.items() if p.grad is not None},
    )


def assert_close(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> None:
    assert set(ours) == set(theirs)
    for name, gradient in ours.items():
        size = float(gradient.abs().max())
        assert size > 0, name
        difference = float((gradient - theirs[name]).abs().max())
        assert difference <= 1e-4 * size + 1e-9, (name, difference, size)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_losses_and_gradients_are_the_same_in_both_hosts(
    graph: Graph, host: ComfyHost, other: Any, checkpointing: bool
):
    before = state_of(graph.model), state_of(graph.clip.patcher)
    fused = comfy.quant_ops.ck.rms_rope_split_half
    losses, gradients = step(recipe(host, checkpointing=checkpointing))
    theirs = step(recipe(other, checkpointing=checkpointing))
    assert len(gradients) == 4 + 2 * 10 * BLOCKS  # two handles with two vectors; up and down
    assert losses["attention"] > 0
    for name, loss in losses.items():
        assert loss == pytest.approx(theirs[0][name], rel=1e-5)
    assert_close(gradients, theirs[1])
    assert comfy.quant_ops.ck.rms_rope_split_half is fused
    assert torch.is_inference_mode_enabled()
    assert_same_state(graph.model, before[0])
    assert_same_state(graph.clip.patcher, before[1])
    assert graph.model.model.diffusion_model.crossattn_emb is None


def test_checkpointing_changes_no_gradient(host: ComfyHost):
    plain, again = (step(recipe(host, checkpointing=on)) for on in (False, True))
    assert plain[0] == again[0]
    for name, gradient in plain[1].items():
        torch.testing.assert_close(gradient, again[1][name], rtol=1e-5, atol=1e-9)


def test_a_step_is_that_of_a_plain_loop(other: Any):
    """x_t = (1 - t) x_0 + t noise, the network says noise - x_0, mean square under the mask."""
    learned = recipe(other, attention_weight=0.0, batch_size=1)
    losses, gradients = step(learned)
    generator = torch.Generator().manual_seed(3)
    (sample,) = draw_samples(learned.scene, learned.config, 1, generator)
    clean = learned._dataset.latents([sample])
    noise = torch.randn(clean.shape, generator=generator)
    u = torch.randn(1, generator=generator).sigmoid()
    t = 3 * u / (1 + 2 * u)
    named = learned.named_parameters()
    with torch.inference_mode(False), torch.enable_grad():
        changed = {}
        for name in other.weight_names():
            up = named.get(f"adapter.{name}.up")
            if up is not None:
                path = name.removeprefix("transformer.").removesuffix(".weight")
                theirs = ANIMA.diffusers_name(path)
                down = named[f"adapter.{name}.down"]
                changed[f"{theirs}.weight"] = other.weight(name) + up @ down
        prompt = other.encode_prompt(sample.prompt("a photo of "), learned.handles.vectors())
        velocity = torch.func.functional_call(
            other.network,
            changed,
            kwargs={
                "hidden_states": ((1 - t) * clean + t * noise).unsqueeze(2),
                "timestep": t,
                "encoder_hidden_states": prompt.context,
                "padding_mask": torch.zeros(1, 1, 8, 8),
                "return_dict": False,
            },
        )[0].squeeze(2)
        error = (velocity - (noise - clean)) * learned._dataset.unions([sample])
        loss = error.square().mean()
        learning = {n: p for n, p in named.items() if n in gradients}
        expected = torch.autograd.grad(loss, list(learning.values()))
    assert losses["diffusion"] == pytest.approx(float(loss), rel=1e-5)
    assert_close(gradients, dict(zip(learning, expected, strict=True)))


def test_attention_is_learned_where_words_are_located(host: ComfyHost):
    learned = recipe(host, batch_size=1)
    seen = {}
    for seed in range(12):
        generator = torch.Generator().manual_seed(seed)
        phase = learned.phases()[1]
        with learned.computing(phase), torch.no_grad():
            times: list[float] = []
            predict = host.predict

            def spy(latent, timesteps, *args, times=times, predict=predict, **kwargs):
                times.extend(timesteps.tolist())
                return predict(latent, timesteps, *args, **kwargs)

            host.predict = spy
            try:
                seen[seed] = (times, float(learned.losses(phase, generator)["attention"]))
            finally:
                host.predict = predict
    inside = {seed for seed, (times, _) in seen.items() if 0.65 <= times[0] <= 0.85}
    assert {seed for seed, (_, loss) in seen.items() if loss > 0} == inside
    assert 0 < len(inside) < 12


def test_an_exported_lora_is_read_by_core_and_by_us(
    graph: Graph, host: ComfyHost, other: Any, tmp_path: Path
):
    concept = concept_of(host)
    path = tmp_path / "cat.safetensors"
    report = export_lora(concept, path)
    assert report.error == 0
    tensors = load_file(path)
    assert all(name.startswith("diffusion_model.blocks.") for name in tensors)
    assert {name.split(".", 2)[2].partition(".lora_")[2] for name in tensors} == {
        "A.weight",
        "B.weight",
    }
    prompt = host.encode_prompt("a cat")
    core = comfy.sd.load_lora_for_models(graph.model, graph.clip, tensors, 1.0, 1.0)[0]
    ours = applied(graph.model, graph.clip, concept, 1.0)[0]
    found = [ComfyHost(m, graph.clip).predict(LATENT, AT, [prompt]) for m in (core, ours)]
    torch.testing.assert_close(*found, rtol=0, atol=1e-4)
    names = key_map(other.weight_names(), other.sites, other.encoders)
    file = lora_of(tensors, names, lambda name: tuple(other.weight(name).shape))
    assert set(file.changes) == set(concept.weights)
    assert file.unmatched == ()
    for name, change in concept.weights.items():
        assert isinstance(change, LowRank)
        assert torch.equal(file.changes[name].delta(change.shape), change.delta(change.shape))
    words = export_embeddings(concept, tmp_path)
    assert words.files == ()
    assert "<my-cat>" in words.left_out
