"""Pipelines that are offloaded, or keep their weights in fewer bits than they compute with."""

from __future__ import annotations

import copy
from collections.abc import Callable

import accelerate
import pytest
import torch
from diffusers.hooks import apply_group_offloading

from conceptloom.errors import ModelError
from conceptloom.host.diffusers import DiffusersHost
from conceptloom.host.diffusers.placement import execution_device
from conceptloom.host.pictures import planes_of

from ..tiny_models import noise, tiny_host

CPU = torch.device("cpu")
ELSEWHERE = torch.device("meta")  # the second device that every machine has


def networks(host: DiffusersHost) -> list[torch.nn.Module]:
    return [host.unet, host.vae, *(encoder.model for encoder in host._encoders)]


def drawn(host: DiffusersHost) -> torch.Tensor:
    """Everything that a picture takes: a prompt with a handle, noise, and the VAE both ways."""
    handles = {"mug": host.word_vectors("mug")}
    prompt = host.encode_prompt("a photo of a <mug>", handles)
    latent = host.encode_image(noise(1, 16, 16, 3).sigmoid())
    with torch.no_grad():
        return host.decode_latent(host.predict(latent, torch.tensor([300]), [prompt]))


def offloaded_by_leaf(network: torch.nn.Module) -> None:
    apply_group_offloading(network, CPU, CPU, offload_type="leaf_level")


def offloaded_by_block(network: torch.nn.Module) -> None:
    apply_group_offloading(network, CPU, CPU, offload_type="block_level", num_blocks_per_group=1)


@pytest.mark.parametrize("offload", [offloaded_by_leaf, offloaded_by_block])
@pytest.mark.parametrize("part", range(4))
def test_inputs_go_where_groups_are_loaded_to(
    offload: Callable[[torch.nn.Module], None], part: int
) -> None:
    network = networks(tiny_host("sdxl"))[part]
    offload(network)
    for module in network.modules():  # a machine without a GPU cannot load anywhere else
        if hasattr(module, "_diffusers_hook"):
            module._diffusers_hook.get_hook("group_offloading").config.onload_device = ELSEWHERE
    assert execution_device(network) == ELSEWHERE


@pytest.mark.parametrize("part", range(4))
def test_inputs_go_where_accelerate_computes(part: int) -> None:
    layerwise, whole = (networks(tiny_host("sdxl"))[part] for _ in range(2))
    accelerate.cpu_offload(layerwise, execution_device=CPU)
    assert next(layerwise.parameters()).device == ELSEWHERE  # until a layer is called
    assert execution_device(layerwise) == CPU
    accelerate.cpu_offload_with_hook(whole, execution_device=CPU)
    whole._hf_hook.execution_device = ELSEWHERE
    assert execution_device(whole) == ELSEWHERE


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
@pytest.mark.parametrize(
    "offload",
    [
        offloaded_by_leaf,
        offloaded_by_block,
        lambda network: accelerate.cpu_offload(network, execution_device=CPU),
        lambda network: accelerate.cpu_offload_with_hook(network, execution_device=CPU),
    ],
)
def test_an_offloaded_pipeline_draws_the_same(
    family: str, offload: Callable[[torch.nn.Module], None]
) -> None:
    host = tiny_host(family)
    expected = drawn(host)
    for network in networks(host):
        offload(network)
    assert host.device == CPU
    assert torch.equal(drawn(host), expected)


def test_weights_that_cannot_be_read_are_reported() -> None:
    host = tiny_host()
    accelerate.cpu_offload(host.unet, execution_device=CPU)
    told = r"unet\.out\.2\.bias is not in memory.*without enable_sequential_cpu_offload"
    with pytest.raises(ModelError, match=told):
        host.weight("unet.out.2.bias")
    with pytest.raises(ModelError, match=told):  # noqa: SIM117
        with host.edited({"unet.out.2.bias": lambda bias: bias + 1}, trainable=False):
            raise AssertionError


def test_edited_weights_follow_the_model() -> None:
    host = tiny_host()
    with host.edited({"unet.out.2.bias": lambda bias: bias + 1}, trainable=False):
        host.unet.to(ELSEWHERE)
        assert host.unet.conv_out.bias.device == ELSEWHERE
        host.unet.to_empty(device=CPU)


def test_weights_in_fewer_bits_are_computed_with_in_more() -> None:
    host = tiny_host()
    stored, prompt = torch.float8_e4m3fn, host.encode_prompt("a cat")
    with torch.no_grad():
        plain = host.predict(noise(1, 4, 8, 8), torch.tensor([300]), [prompt])
        host.unet.enable_layerwise_casting(storage_dtype=stored, compute_dtype=torch.float32)
        assert host.unet.conv_in.weight.dtype is stored
        assert host.dtype is torch.float32
        cast = host.predict(noise(1, 4, 8, 8), torch.tensor([300]), [prompt])
    assert 0 < (cast - plain).abs().max() < 0.1 * plain.abs().max()


def test_a_vae_that_overflows_in_half_precision_computes_in_float32() -> None:
    host, image = tiny_host(), noise(1, 16, 16, 3).sigmoid()
    host.vae.half()
    before = [p.detach().clone() for p in host.vae.parameters()]
    exact = copy.deepcopy(host.vae).float()
    with torch.no_grad():
        expected = exact.encode(planes_of(image) * 2 - 1).latent_dist.mean
    latent = host.encode_image(image)
    assert torch.equal(latent, expected * host.vae.config.scaling_factor)
    assert host.decode_latent(latent).isfinite().all()
    with pytest.raises(RuntimeError):
        host.decode_latent(latent[:, :3])
    assert all(torch.equal(a, b) for a, b in zip(before, host.vae.parameters(), strict=True))
