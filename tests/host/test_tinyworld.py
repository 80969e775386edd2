"""The bundled checkpoint in ComfyUI: stock nodes work with it, and it is the model of diffusers."""

from __future__ import annotations

import copy
from functools import cache

import pytest
import torch
from tiny_models import Graph, left_behind

from conceptloom.attention.maps import AttentionCapture, TokenQuery
from conceptloom.host.comfyui.host import ComfyHost
from conceptloom.host.comfyui.tinyworld import (
    load_tinyworld,
    load_tinyworld_clip,
    load_tinyworld_model,
)
from conceptloom.host.ports import Rows, UNetEdit

PROMPT = "a photo of a red mug"
KEY = "unet.middle_block.1.transformer_blocks.0.attn2.to_k.weight"


@cache
def world() -> Graph:
    with torch.inference_mode():
        return Graph(*load_tinyworld())


@cache
def hosts() -> tuple[ComfyHost, object]:
    diffusers = pytest.importorskip("conceptloom.host.diffusers")
    pytest.importorskip("diffusers")
    graph = world()
    with torch.inference_mode(False):
        return ComfyHost(graph.model, graph.clip, graph.vae), diffusers.DiffusersHost.tinyworld()


def latent_for(host, height: int = 16, width: int = 12, rows: int = 2) -> torch.Tensor:
    generator = torch.Generator().manual_seed(4)
    return torch.randn(rows, host.latent_channels, height, width, generator=generator)


def test_stock_nodes_draw_with_it():
    from comfy_extras.nodes_custom_sampler import KSamplerSelect  # noqa: F401  (loads the samplers)
    from nodes import CLIPTextEncode, EmptyLatentImage, KSampler, VAEDecode

    graph = world()
    positive, negative = (CLIPTextEncode().encode(graph.clip, text)[0] for text in (PROMPT, ""))
    empty = EmptyLatentImage().generate(128, 192, 2)[0]  # of four channels
    latent = KSampler().sample(
        graph.model, 1, 4, 4.0, "ddim", "normal", positive, negative, empty, 1.0
    )[0]
    assert latent["samples"].shape == (2, 16, 24, 16)
    image = VAEDecode().decode(graph.vae, latent)[0]
    assert image.shape == (2, 192, 128, 3)
    assert image.std() > 0.02


def test_stock_lora_loader_takes_our_layout(tmp_path, monkeypatch: pytest.MonkeyPatch):
    import folder_paths
    from nodes import LoraLoader
    from safetensors.torch import save_file

    graph = world()
    path = "diffusion_model.middle_block.1.proj_out"
    width = graph.model.model.diffusion_model.middle_block[1].proj_out.out_channels
    lora = {
        f"{path}.lora_up.weight": torch.randn(width, 2),
        f"{path}.lora_down.weight": torch.randn(2, width),
    }
    save_file(lora, str(tmp_path / "one.safetensors"))
    monkeypatch.setattr(folder_paths, "get_full_path_or_raise", lambda *a: str(tmp_path / a[1]))
    model, _ = LoraLoader().load_lora(graph.model, graph.clip, "one.safetensors", 1.0, 1.0)
    assert list(model.patches) == [f"{path}.weight"]


def test_second_copies_for_the_host_are_the_same():
    graph = world()
    for first, second in (
        (graph.model, load_tinyworld_model(disable_dynamic=True)),
        (graph.clip.patcher, load_tinyworld_clip(disable_dynamic=True)),
    ):
        again = second.model.state_dict()
        assert all(torch.equal(v, again[k]) for k, v in first.model.state_dict().items())


def test_deep_copies_for_training_nodes_work():
    graph = world()
    if hasattr(graph.model, "clone_base_uuid"):  # hosts that know `force_deepcopy`
        with torch.inference_mode(False):
            copied = graph.model.clone(force_deepcopy=True)
        assert copied.model is not graph.model.model


def test_both_hosts_describe_the_same_model():
    ours, theirs = hosts()
    assert ours.fingerprint == theirs.fingerprint
    assert ours.encoders == theirs.encoders
    assert ours.latent_channels == theirs.latent_channels
    assert ours.pixels_per_latent == theirs.pixels_per_latent
    assert sorted(ours.weight_names()) == sorted(theirs.weight_names())
    for name in ours.weight_names()[::7]:
        mine, other = ours.weight(name), theirs.weight(name)
        assert torch.equal(mine.float(), other.float().reshape(mine.shape)), name
    torch.testing.assert_close(
        ours.noise_path.alpha_bar, theirs.noise_path.alpha_bar, rtol=2e-6, atol=1e-9
    )
    places = [
        [(s.name, s.place, s.number, s.downsample, s.width) for s in h.sites.resnets]
        for h in hosts()
    ]
    assert places[0] == places[1]
    layers = [
        [
            (s.name, s.place, s.number, s.downsample, s.width, s.heads, s.depth)
            for s in h.sites.transformers
        ]
        for h in hosts()
    ]
    assert layers[0] == layers[1]
    sites = [[(s.name, s.rows, s.downsample, s.roles) for s in h.sites.layers] for h in hosts()]
    assert sites[0] == sites[1]
    kinds = [[(s.name, s.kind, s.heads, s.layer) for s in h.sites.attentions] for h in hosts()]
    assert kinds[0] == kinds[1]
    for site in ours.sites.layers:
        assert ours._network.get_submodule(site.name) is site.module


@pytest.mark.parametrize("text", [PROMPT, "a <mug>, next to the <hat>", "a blue square, " * 30])
def test_both_hosts_encode_the_same_prompt(text: str):
    ours, theirs = hosts()
    width = ours.encoders["clip_l"]
    handles = {
        "mug": {"clip_l": 0.1 * torch.randn(2, width)},
        "hat": {"clip_l": 0.1 * torch.randn(1, width)},
    }
    mine, other = (host.encode_prompt(text, handles) for host in (ours, theirs))
    assert mine.tokens == other.tokens
    assert mine.content == other.content
    handle = mine.find_handle("mug")
    assert all(mine.content[i] for i in handle)
    assert not any(mine.content[::77])
    torch.testing.assert_close(mine.context, other.context, rtol=1e-4, atol=1e-5)
    for word in ("red", "photo"):
        assert torch.equal(ours.word_vectors(word)["clip_l"], theirs.word_vectors(word)["clip_l"])


def test_both_hosts_predict_the_same_noise_with_the_same_maps():
    results = []
    timesteps = torch.tensor([30, 800])
    for host in hosts():
        capture = AttentionCapture(host.sites.transformers)
        prompts = [host.encode_prompt(PROMPT), host.encode_prompt("a blue square, " * 30)]
        predicted = host.predict(latent_for(host), timesteps, prompts, [capture])
        queries = [
            TokenQuery(0, prompts[0].find(host.tokenize("mug")), 77),
            TokenQuery(1, (2, 3), len(prompts[1].tokens)),
        ]
        results.append((predicted, capture.maps(queries, size=(16, 12))))
    for mine, other in zip(*results, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=2e-5)


class LeftHalf(UNetEdit):
    """Every layer gives more on the left of the picture, and less attention is paid there."""

    def wanted_layers(self, sites):
        return sites.layers

    def wanted_attended(self, sites):
        return sites.attentions

    def layer(self, site, inputs, output, info):
        if site.rows is not Rows.GRID:
            return output * 1.1
        height, width = info.grid(site)
        plane = (torch.arange(width) < width / 2).float().expand(height, width)
        factor = 1 + 0.2 * (plane if output.ndim == 4 else plane.reshape(-1, 1))
        return output * factor

    def attended(self, call):
        again = torch.nn.functional.scaled_dot_product_attention(call.query, call.key, call.value)
        return call.output - 0.5 * again.transpose(1, 2).flatten(2)


def test_edits_of_layers_and_attentions_are_the_same_in_both_hosts():
    results, timesteps = [], torch.tensor([30, 800])
    for host in hosts():
        prompt = host.encode_prompt(PROMPT)
        with torch.no_grad():
            plain = host.predict(latent_for(host, 17, 12), timesteps, [prompt])
            edited = host.predict(latent_for(host, 17, 12), timesteps, [prompt], [LeftHalf()])
        assert not torch.allclose(plain, edited, atol=0.1)
        results.append(edited)
    torch.testing.assert_close(*results, rtol=1e-4, atol=5e-5)


@torch.inference_mode(False)  # ours leaves it by itself, the one of diffusers is not made for it
def test_both_hosts_learn_alike():
    results = []
    timesteps = torch.tensor([30, 800])
    for host in hosts():
        generator = torch.Generator().manual_seed(2)
        handle = torch.nn.Parameter(
            0.1 * torch.randn(2, host.encoders["clip_l"], generator=generator)
        )
        delta = torch.nn.Parameter(torch.zeros_like(host.weight(KEY)))
        capture = AttentionCapture(host.sites.transformers)
        with host.edited({KEY: lambda w, d=delta: w + d}, trainable=True):
            prompt = host.encode_prompt("a photo of a <mug>", {"mug": {"clip_l": handle}})
            predicted = host.predict(latent_for(host), timesteps, [prompt], [capture])
            noise = latent_for(host).flip(0).clone()
            attention = capture.maps([TokenQuery(0, prompt.find_handle("mug"), 77)], (16, 12))
            loss = (predicted - noise).pow(2).mean() + 0.1 * attention.pow(2).mean()
            gradients = torch.autograd.grad(loss, [handle, delta])
        results.append([loss.detach(), *gradients])
    for mine, other in zip(*results, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-3, atol=1e-5 * other.abs().max().item())


def test_both_hosts_encode_and_decode_the_same_picture():
    generator = torch.Generator().manual_seed(1)
    image = torch.rand(1, 48, 64, 3, generator=generator)
    latents = [host.encode_image(image) for host in hosts()]
    torch.testing.assert_close(*latents, rtol=1e-3, atol=1e-4)
    images = [host.decode_latent(latents[0]) for host in hosts()]
    torch.testing.assert_close(*images, rtol=1e-3, atol=1e-4)


def test_edits_change_both_hosts_alike():
    ours, theirs = hosts()
    edits = {
        KEY: lambda w: w * 1.5,
        "unet.middle_block.1.proj_out.weight": lambda w: w + 0.01,
        "clip_l.text_model.embeddings.position_embedding.weight": lambda w: w * 0.5,
        "clip_l.text_model.embeddings.token_embedding.weight": lambda w: w * 0.9,
    }
    results = []
    for host in (ours, theirs):
        with host.edited(edits, trainable=False):
            prompt = host.encode_prompt(PROMPT)
            results.append(host.predict(latent_for(host), torch.tensor([30, 800]), [prompt]))
    torch.testing.assert_close(*results, rtol=1e-4, atol=2e-5)


def test_nothing_hangs_on_the_shared_model():
    assert left_behind(world().model.model) == []
    assert left_behind(world().clip.patcher.model) == []
    assert copy.copy(world().model) is not None
