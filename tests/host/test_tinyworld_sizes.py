"""Both hosts carry TinyWorlds of other sizes: 4 latent channels, one latent for 4 x 4 pixels."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny_models import Graph

from conceptloom.host.comfyui.host import ComfyHost
from conceptloom.host.comfyui.tinyworld import load_tinyworld
from conceptloom.tinyworld.checkpoint import TinyWorldFile, pack, write_checkpoint
from conceptloom.tinyworld.model import ModelConfig, build_text_encoder, build_unet, build_vae

pytest.importorskip("diffusers")

PROMPT = "a photo of a red mug with a star"
SIZES = ModelConfig(
    resolution_px=64,
    latent_channels=4,
    unet_channels=(32, 32),
    context_dim=32,
    vae_channels=(32, 32, 64),
    vae_norm_groups=4,
    scaling_factor=1.4,
)


def untrained(sizes: ModelConfig) -> TinyWorldFile:
    """A checkpoint with random weights."""
    torch.manual_seed(0)
    ids = [49406, 49407, 736, 3999]
    networks = build_unet(sizes), build_text_encoder(sizes, len(ids) + 8), build_vae(sizes)
    return pack(*networks, sizes, ids, 8, {})


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> tuple[Graph, ComfyHost, object]:
    diffusers_host = pytest.importorskip("conceptloom.host.diffusers").DiffusersHost
    path: Path = tmp_path_factory.mktemp("sizes") / "tinyworld.safetensors"
    write_checkpoint(untrained(SIZES), path)
    graph = Graph(*load_tinyworld(path))
    with torch.inference_mode(False):
        ours = ComfyHost(graph.model, graph.clip, graph.vae)
        return graph, ours, diffusers_host.tinyworld(path)


def test_both_hosts_tell_of_the_same_sizes(hosts) -> None:
    _, ours, theirs = hosts
    for host in (ours, theirs):
        assert host.latent_channels == 4
        assert host.pixels_per_latent == 4
    assert ours.fingerprint == theirs.fingerprint


def test_both_hosts_predict_alike(hosts) -> None:
    latent = torch.randn(2, 4, 16, 12, generator=torch.Generator().manual_seed(4))
    results = [
        host.predict(latent, torch.tensor([30, 800]), [host.encode_prompt(PROMPT)] * 2, [])
        for host in hosts[1:]
    ]
    assert results[0].shape == latent.shape
    torch.testing.assert_close(*results, rtol=1e-4, atol=2e-5)


def test_both_hosts_encode_and_decode_alike(hosts) -> None:
    image = torch.rand(1, 64, 96, 3, generator=torch.Generator().manual_seed(1))
    latents = [host.encode_image(image) for host in hosts[1:]]
    assert latents[0].shape == (1, 4, 16, 24)
    torch.testing.assert_close(*latents, rtol=1e-3, atol=1e-4)
    images = [host.decode_latent(latents[0]) for host in hosts[1:]]
    assert images[0].shape == image.shape
    torch.testing.assert_close(*images, rtol=1e-3, atol=1e-4)


def test_stock_nodes_begin_with_the_right_latent(hosts) -> None:
    """Empty Latent Image knows one latent for 8 pixels."""
    from nodes import CLIPTextEncode, EmptyLatentImage, KSampler, VAEDecode, VAEEncode

    graph = hosts[0]
    words = [CLIPTextEncode().encode(graph.clip, text)[0] for text in (PROMPT, "")]
    empty = EmptyLatentImage().generate(128, 96, 2)[0]
    latent = KSampler().sample(graph.model, 1, 2, 4.0, "euler", "normal", *words, empty, 1.0)[0]
    assert latent["samples"].shape == (2, 4, 24, 32)
    image = VAEDecode().decode(graph.vae, latent)[0]
    assert image.shape == (2, 96, 128, 3)
    again = VAEEncode().encode(graph.vae, image)[0]
    assert again["samples"].shape == (2, 4, 24, 32)
