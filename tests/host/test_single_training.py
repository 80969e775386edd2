"""Learning on Z-Image and Krea 2: losses, gradients and handles are equal in both hosts."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import comfy.sd
import pytest
import torch
from safetensors.torch import load_file
from test_anima_training import assert_close, scene, step, without_vae
from test_single_python import python_host
from test_single_stream import LATENT
from tiny_models import Graph, assert_same_state, state_of
from tiny_single import single_graph, single_kind

from conceptloom.cli.drawing import natural_size
from conceptloom.concepts.concept import Concept
from conceptloom.concepts.concept_file import load_concept, save_concept
from conceptloom.concepts.lora_concept import concept_of_lora
from conceptloom.concepts.lora_export import export_lora
from conceptloom.concepts.lora_file import LoraFile, lora_of
from conceptloom.concepts.lora_keys import key_map
from conceptloom.concepts.lora_metadata import LoraWords
from conceptloom.errors import HandleError, UnsupportedModelError
from conceptloom.host.comfyui.host import ComfyHost
from conceptloom.host.comfyui.prompts import clip_with_handles
from conceptloom.host.comfyui.tokens import TOKENS
from conceptloom.host.ports import find_run
from conceptloom.host.roles import Role, roles_of
from conceptloom.methods.break_a_scene import (
    BreakAScene,
    BreakASceneConfig,
    ClassImages,
    TokenPhase,
    WeightPhase,
)
from conceptloom.methods.break_a_scene.dataset import draw_samples
from conceptloom.methods.clic import CLiC, CLiCConfig
from conceptloom.methods.personalized_residuals import Localised, local_lora_of, sample_lag
from conceptloom.nodes.lag import with_lag
from conceptloom.nodes.shared import applied
from conceptloom.training.adapters import Scope
from conceptloom.training.runner import loop_for

AT = torch.tensor([0.6])


kind, graph = single_kind, single_graph


@pytest.fixture
def hosts(kind: str, graph: Graph) -> tuple[Any, Any]:
    pytest.importorskip("diffusers")
    return (
        without_vae(ComfyHost(graph.model, graph.clip)),
        without_vae(python_host(kind, graph)),
    )


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


def vectors(host: Any, seed: int = 4, count: int = 2) -> dict[str, dict[str, torch.Tensor]]:
    ((encoder, width),) = host.encoders.items()
    generator = torch.Generator().manual_seed(seed)
    return {"my-cat": {encoder: 0.1 * torch.randn(count, width, generator=generator)}}


PROMPTS = ("<my-cat> cat, and a red mug", "a photo of <my-cat>  cat", "a mug with <my-cat>")


@pytest.mark.parametrize("text", PROMPTS)
def test_handles_are_read_alike(hosts: tuple[Any, Any], text: str):
    ours, theirs = (host.encode_prompt(text, vectors(host)) for host in hosts)
    assert ours.tokens == theirs.tokens
    assert len(ours.find_handle("my-cat")) == 2
    torch.testing.assert_close(ours.context, theirs.context, rtol=1e-4, atol=1e-4)
    plain = hosts[0].encode_prompt(text.replace("<my-cat>", "my"))
    assert ours.tokens[-5:] == plain.tokens[-5:]  # what closes the template
    assert ours.content[-5:] == (False,) * 5


def test_a_handle_with_the_vectors_of_a_word_is_the_word(hosts: tuple[Any, Any]):
    for host in hosts:
        named = {"it": host.word_vectors(" teapot")}
        prompt = host.encode_prompt("a red <it> on a table", named)
        word = host.encode_prompt("a red teapot on a table")
        torch.testing.assert_close(prompt.context, word.context, rtol=1e-5, atol=1e-5)


def test_a_clip_with_handles_encodes_and_tells_them(hosts: tuple[Any, Any], graph: Graph):
    host = hosts[0]
    clip = clip_with_handles(graph.clip, vectors(host), {"my-cat": "one"})
    text = "a photo of <my-cat> cat"
    ((context, extra),) = clip.encode_from_tokens_scheduled(clip.tokenize(text))
    expected = host.encode_prompt(text, vectors(host))
    torch.testing.assert_close(context, expected.context, rtol=1e-5, atol=1e-5)
    assert extra[TOKENS] == expected.tokens
    assert len(find_run(extra[TOKENS], ("my-cat",))) == 2
    # a host with this CLIP knows them
    known = ComfyHost(graph.model, clip).encode_prompt(text)
    assert known.tokens == expected.tokens
    with pytest.raises(HandleError, match="needs qwen3"):
        clip_with_handles(graph.clip, {"other": {"clip_l": torch.zeros(1, 8)}})
    with pytest.raises(HandleError):
        clip_with_handles(clip, vectors(host, seed=9), {"my-cat": "two"})


def test_an_imported_lora_s_trigger_is_read_as_its_handle(hosts: tuple[Any, Any]):
    """And LAG applies the concept where its words are."""
    made = learned_concept(hosts[0])
    for host in hosts:
        file = LoraFile(changes=made.weights, identity="one")
        words = LoraWords(trigger="ohwx person")
        concept = concept_of_lora(host, file, words, words="red mug")
        (name,) = concept.handles
        handle = host.encode_prompt(f"a photo of <{name}> red mug", concept.handles)
        word = host.encode_prompt("a photo of ohwx person red mug")
        torch.testing.assert_close(handle.context, word.context, rtol=1e-5, atol=1e-5)
        lora = local_lora_of(host, Localised(concept=concept))
        assert lora.places(handle.tokens) == handle.find(host.tokenize("red mug"))
    for text in ("\u732b", "cat", " cat "):
        ours, theirs = (next(iter(host.word_vectors(text).values())).cpu() for host in hosts)
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_losses_and_gradients_are_the_same_in_both_hosts(
    hosts: tuple[Any, Any], graph: Graph, checkpointing: bool
):
    before = state_of(graph.model), state_of(graph.clip.patcher)
    results = []
    for host in hosts:
        learned = recipe(host, checkpointing=checkpointing, prior_weight=1.0)
        with torch.inference_mode(False):
            generator = torch.Generator().manual_seed(8)
            learned.class_latents = torch.randn(2, 16, 8, 8, generator=generator)
        results.append(step(learned))
    (losses, gradients), theirs = results
    assert losses["attention"] > 0
    assert losses["prior"] > 0
    for name, loss in losses.items():
        assert loss == pytest.approx(theirs[0][name], rel=1e-5)
    assert {name.partition(".")[0] for name in gradients} == {"handle", "adapter"}
    assert_close(gradients, theirs[1])
    assert torch.is_inference_mode_enabled()
    assert_same_state(graph.model, before[0])
    assert_same_state(graph.clip.patcher, before[1])


def test_gradients_agree_with_finite_differences(hosts: tuple[Any, Any]):
    """Of the plain loss: the path's own time and sign, under the mask of the concept."""
    host = hosts[1]
    learned = recipe(host, attention_weight=0.0, batch_size=1)
    losses, gradients = step(learned)
    phase = learned.phases()[1]
    generator = torch.Generator().manual_seed(3)
    (sample,) = draw_samples(learned.scene, learned.config, 1, generator)
    clean = learned._dataset.latents([sample])
    noise = torch.randn(clean.shape, generator=generator)
    u = torch.randn(1, generator=generator).sigmoid()
    shift = host.noise_path.shift
    t = shift * u / (1 + (shift - 1) * u)
    named = learned.named_parameters()

    def loss() -> float:
        with learned.computing(phase), torch.no_grad():
            text = sample.prompt(learned.config.prompt_prefix)
            prompt = host.encode_prompt(text, learned.handles.vectors())
            velocity = host.predict((1 - t) * clean + t * noise, t, [prompt])
            error = (velocity - (noise - clean)) * learned._dataset.unions([sample])
            return float(error.double().square().mean())

    with torch.inference_mode(False):
        assert losses["diffusion"] == pytest.approx(loss(), rel=1e-5)
        for name in (next(n for n in gradients if n.startswith("handle")), max(gradients)):
            gradient, value = gradients[name], named[name]
            direction = gradient / gradient.norm()
            size = 3e-3
            with torch.no_grad():
                value += size * direction
                above = loss()
                value -= 2 * size * direction
                below = loss()
                value += size * direction
            assert (above - below) / (2 * size) == pytest.approx(float(gradient.norm()), rel=0.02)


def learned_concept(host: Any) -> Concept:
    """As a run of Break-A-Scene leaves it: one handle, low rank on every linear layer."""
    learned = recipe(host)
    with torch.inference_mode(False), torch.no_grad():
        for i, (name, value) in enumerate(sorted(learned.named_parameters().items())):
            if name.endswith(".up"):
                value.normal_(std=0.1, generator=torch.Generator().manual_seed(i))
        concept = learned.concept([], None)
    return replace(
        concept, handles={"cat": concept.handles["cat"]}, words={"cat": "mug"},
        recipe={"class_word": "mug"},
    )  # fmt: skip


def test_a_concept_is_saved_exported_and_read_by_core_and_by_both_hosts(
    hosts: tuple[Any, Any], graph: Graph, tmp_path: Path
):
    concept = learned_concept(hosts[0])
    assert set(concept.weights) == set(learned_concept(hosts[1]).weights)
    save_concept(concept, tmp_path / "cat.safetensors")
    again = load_concept(tmp_path / "cat.safetensors")
    assert set(again.weights) == set(concept.weights)
    path = tmp_path / "lora.safetensors"
    assert export_lora(concept, path).error == 0
    tensors = load_file(path)
    assert all(name.startswith("diffusion_model.") for name in tensors)
    assert not any("attention.out" in name for name in tensors)
    prompt = hosts[0].encode_prompt("a cat")
    core = comfy.sd.load_lora_for_models(graph.model, graph.clip, tensors, 1.0, 1.0)[0]
    ours = applied(graph.model, graph.clip, again, 1.0)[0]
    found = [
        ComfyHost(m, graph.clip).predict(LATENT[:1], AT, [prompt])
        for m in (core, ours, graph.model)
    ]
    assert (found[2] - found[0]).abs().max() > 0.01
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=1e-4)
    other = hosts[1]
    names = key_map(other.weight_names(), other.sites, other.encoders)
    file = lora_of(tensors, names, lambda name: tuple(other.weight(name).shape))
    assert set(file.changes) == set(concept.weights)
    assert file.unmatched == ()
    with other.edited({n: c.as_edit() for n, c in concept.weights.items()}, trainable=False):
        theirs = other.predict(LATENT[:1], AT, [other.encode_prompt("a cat")])
    torch.testing.assert_close(theirs, found[1], rtol=1e-4, atol=1e-4)


def test_diffusers_own_converter_reads_the_export(
    kind: str, hosts: tuple[Any, Any], tmp_path: Path
):
    from diffusers.loaders import lora_conversion_utils as utils

    path = tmp_path / "lora.safetensors"
    concept = learned_concept(hosts[0])
    export_lora(concept, path)
    name = "_convert_non_diffusers_z_image_lora_to_diffusers"
    if kind == "krea2":
        name = "_convert_non_diffusers_krea2_lora_to_diffusers"
    if not hasattr(utils, name):
        pytest.skip("this diffusers has another converter")
    converted = getattr(utils, name)(load_file(path))
    modules = {n for n, _ in hosts[1].network.named_modules()}
    read = {key.removeprefix("transformer.").partition(".lora_")[0] for key in converted}
    assert read <= modules
    assert len(read) == len(concept.weights)


def test_lag_of_a_learned_concept_is_the_same_in_both_hosts(hosts: tuple[Any, Any]):
    noise = torch.randn(1, 16, 8, 8, generator=torch.Generator().manual_seed(3))
    pictures = []
    for host in hosts:
        concept = learned_concept(hosts[0])
        residuals = {n: c for n, c in concept.weights.items() if Role.PROJ_OUT in roles_of(n)}
        concept = replace(concept, weights=residuals)
        text = ["a photo of <cat> mug on a table"]
        with torch.no_grad():
            pictures.append(
                sample_lag(host, [Localised(concept=concept)], text, noise, steps=3, cfg=2.0).cpu()
            )
    torch.testing.assert_close(*pictures, rtol=1e-3, atol=1e-3)


def test_lag_takes_concepts_of_both_engines(hosts: tuple[Any, Any], graph: Graph):
    from test_single_local import drawn

    concept = learned_concept(hosts[0])
    model, clip = with_lag(graph.model, graph.clip, [Localised(concept=concept)])
    prompt = "a photo of <cat> mug beside a teapot"
    picture, base = drawn(model, clip, prompt=prompt), drawn(graph.model, clip, prompt=prompt)
    assert picture.isfinite().all()
    assert (picture - base).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("origin", "outcome"),
    [
        ("z_image_turbo_bf16.safetensors", "refused"),
        ("krea2-distilled-tdm", "refused"),
        ("Z-Image-De-Turbo", "quiet"),
        ("Z-Image-Base-non-distilled", "quiet"),
        ("undistilled-krea2", "quiet"),
        ("z_image_base.safetensors", "quiet"),
        ("krea2_raw", "quiet"),
        ("mine.safetensors", "warned"),
        ("", "warned"),
    ],
)
def test_distilled_variants_are_refused_by_name(
    hosts: tuple[Any, Any], origin: str, outcome: str, caplog: pytest.LogCaptureFixture
):
    host = hosts[1]
    host.origin = origin
    with caplog.at_level(logging.WARNING):
        if outcome == "refused":
            with pytest.raises(UnsupportedModelError, match=r"Learn on (Z-Image|Krea 2 Raw)"):
                loop_for(host, None, seed=0, accumulation=1)
        else:
            loop_for(host, None, seed=0, accumulation=1)
    assert ("does not tell" in caplog.text) == (outcome == "warned")


def test_clic_s_losses_and_gradients_are_the_same_in_both_hosts(hosts: tuple[Any, Any]):
    """As the paper has it: whole weights of the attentions, which here read text and picture."""
    results = []
    for host in hosts:
        config = CLiCConfig(
            object_word="chair", token_phase=TokenPhase(steps=1), batch_size=2, views=2,
            checkpointing=False, resolution_px=0,
        )  # fmt: skip
        with torch.inference_mode(False):
            learned = CLiC(host, scene(), config)
        phase = learned.phases()[1]
        with torch.inference_mode(False), torch.enable_grad(), learned.computing(phase):
            terms = learned.losses(phase, torch.Generator().manual_seed(2))
            sum(terms.values()).backward()
        gradients = {n: p.grad for n, p in learned.named_parameters().items() if p.grad is not None}
        results.append(({name: float(term) for name, term in terms.items()}, gradients))
    (losses, ours), (their_losses, theirs) = results
    assert set(losses) == {"context", "attention", "roi"}
    assert losses == pytest.approx(their_losses, rel=1e-5)
    assert all(loss > 0 for loss in losses.values())
    assert sum("attention." in name or ".attn." in name for name in ours) >= 3 * 4
    assert_close(ours, theirs)


def test_pictures_have_the_model_s_own_size(hosts: tuple[Any, Any], monkeypatch: Any):
    host = hosts[1]
    assert natural_size(host) == (16 * host.pixels_per_latent,) * 2  # as small as TinyWorld
    large = [replace(site, width=3840) for site in host.sites.transformers]
    monkeypatch.setattr(host, "sites", replace(host.sites, transformers=large))
    assert natural_size(host) == (128 * host.pixels_per_latent,) * 2


def test_a_file_s_name_comes_from_the_loader(graph: Graph):
    model = graph.model.clone()
    model.cached_patcher_init = (lambda path, options: None, ("/models/z_image_turbo.gguf", {}))
    assert ComfyHost(model, graph.clip).origin == "z_image_turbo.gguf"
