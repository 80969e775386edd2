"""The tiny transformers in ComfyUI: the host's own classes, and the pictures of diffusers."""

from __future__ import annotations

import sys
from functools import cache
from pathlib import Path
from typing import Any

import comfy.ldm.anima.model
import comfy.ldm.lumina.model
import comfy.model_base
import comfy.text_encoders.anima
import comfy.text_encoders.z_image
import pytest
import torch
from tiny_models import Graph

sys.path.append(str(Path(__file__).parents[1]))

pytest.importorskip("diffusers")

from unit.tiny_transformers import random_file

from conceptloom.errors import ModelError
from conceptloom.host.comfyui import tinyworld_dit
from conceptloom.host.comfyui.host import ComfyHost
from conceptloom.host.comfyui.tinyworld_dit import (
    load_dit_clip,
    load_dit_model,
    load_tinyworld_dit,
)
from conceptloom.nodes.tinyworld import TinyWorldCheckpoint
from conceptloom.tinyworld.dit import checkpoint
from conceptloom.tinyworld.dit.sampling import draw, encode_prompt, velocity
from conceptloom.tinyworld.dit.sizes import FAMILIES

PROMPT = "a photo of a red mug with a star, a teapot and a striped fish on the grass"
CLASSES: dict[str, tuple[Any, Any, Any]] = {
    "anima": (
        comfy.model_base.Anima,
        comfy.ldm.anima.model.Anima,
        comfy.text_encoders.anima.AnimaTEModel,
    ),
    "zimage": (
        comfy.model_base.Lumina2,
        comfy.ldm.lumina.model.NextDiT,
        comfy.text_encoders.z_image.ZImageTEModel,
    ),
}

both_families = pytest.mark.parametrize("family", FAMILIES)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("dit")
    with torch.inference_mode(False):
        return {
            family: random_file(family, folder / f"{family}.safetensors") for family in FAMILIES
        }


@cache
def graph_of_file(family: str, path: Path) -> Graph:
    return Graph(*load_tinyworld_dit(family, path))


@both_families
def test_classes_are_the_hosts(family: str, files: dict[str, Path]) -> None:
    graph = graph_of_file(family, files[family])
    model, network, encoder = CLASSES[family]
    assert isinstance(graph.model.model, model)
    assert isinstance(graph.model.model.diffusion_model, network)
    assert isinstance(graph.clip.cond_stage_model, encoder)
    sampling = graph.model.get_model_object("model_sampling")
    assert float(sampling.shift) == 3.0


@both_families
def test_contexts_are_those_of_diffusers(family: str, files: dict[str, Path]) -> None:
    graph = graph_of_file(family, files[family])
    world = checkpoint.load_dit(family, files[family])
    for prompt in (PROMPT, ""):
        states, extra = graph.clip.encode_from_tokens_scheduled(graph.clip.tokenize(prompt))[0]
        if family == "anima":
            network = graph.model.model.diffusion_model
            ids, weights = extra["t5xxl_ids"][None], extra["t5xxl_weights"][None, :, None]
            states = network.preprocess_text_embeds(states, ids, t5xxl_weights=weights)
        torch.testing.assert_close(states[0], encode_prompt(world, prompt), rtol=0, atol=2e-5)


@both_families
def test_stock_sampler_draws_the_pictures_of_diffusers(family: str, files: dict[str, Path]) -> None:
    from nodes import CLIPTextEncode, EmptyLatentImage, KSampler, VAEDecode

    graph = graph_of_file(family, files[family])
    positive, negative = (CLIPTextEncode().encode(graph.clip, text)[0] for text in (PROMPT, ""))
    empty = EmptyLatentImage().generate(128, 128, 1)[0]
    latent = KSampler().sample(
        graph.model, 7, 6, 4.0, "euler", "simple", positive, negative, empty, 1.0
    )[0]
    image = VAEDecode().decode(graph.vae, latent)[0]
    world = checkpoint.load_dit(family, files[family])
    expected = draw(world, [PROMPT], seed=7, steps=6)
    assert expected.std() > 0.05
    torch.testing.assert_close(image, expected, rtol=0, atol=1e-4)


@both_families
def test_a_picture_can_be_redrawn(family: str, files: dict[str, Path]) -> None:
    from nodes import CLIPTextEncode, KSampler, VAEDecode, VAEEncode

    graph = graph_of_file(family, files[family])
    words = CLIPTextEncode().encode(graph.clip, PROMPT)[0]
    picture = torch.rand(1, 128, 192, 3, generator=torch.Generator().manual_seed(0))
    latent = VAEEncode().encode(graph.vae, picture)[0]
    drawn = KSampler().sample(graph.model, 7, 4, 1.0, "euler", "simple", words, words, latent, 0.5)[
        0
    ]
    assert VAEDecode().decode(graph.vae, drawn)[0].shape == picture.shape


@both_families
def test_second_copies_for_the_host_are_the_same(family: str, files: dict[str, Path]) -> None:
    graph = graph_of_file(family, files[family])
    for first, second in (
        (graph.model, load_dit_model(files[family], disable_dynamic=True)),
        (graph.clip.patcher, load_dit_clip(files[family], disable_dynamic=True)),
    ):
        again = second.model.state_dict()
        assert all(torch.equal(v, again[k]) for k, v in first.model.state_dict().items())


@both_families
def test_node_hands_out_a_family_or_says_that_it_is_not_there(
    family: str, files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tinyworld_dit, "CHECKPOINTS", files)
    model, clip, _ = TinyWorldCheckpoint.execute(family).result
    assert isinstance(model.model, CLASSES[family][0])
    assert isinstance(clip.cond_stage_model, CLASSES[family][2])
    missing = {name: tmp_path / f"{name}.safetensors" for name in FAMILIES}
    for module in (tinyworld_dit, checkpoint):
        monkeypatch.setattr(module, "CHECKPOINTS", missing)
    with pytest.raises(ModelError, match="still in training"):
        TinyWorldCheckpoint.execute(family)


@both_families
def test_the_port_predicts_what_diffusers_does(family: str, files: dict[str, Path]) -> None:
    graph = graph_of_file(family, files[family])
    world = checkpoint.load_dit(family, files[family])
    with torch.inference_mode(False), torch.no_grad():
        host = ComfyHost(graph.model, graph.clip, graph.vae)
        assert (host.latent_channels, host.pixels_per_latent) == (16, 8)
        generator = torch.Generator().manual_seed(2)
        latent, sigma = torch.randn(2, 16, 16, 24, generator=generator), torch.tensor([0.8, 0.3])
        predicted = host.predict(latent, sigma, [host.encode_prompt(PROMPT)])
    expected = velocity(world, latent, sigma, [encode_prompt(world, PROMPT)] * 2)
    torch.testing.assert_close(predicted, expected, rtol=0, atol=2e-5)
