"""Base models of real sizes with random weights: SD 1.5, SDXL, Anima, Z-Image; and tiny ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch

from conceptloom.host.diffusers import AnimaHost, DiffusersHost, SingleStreamHost
from conceptloom.tinyworld.dit.networks import build_adapter, build_text_encoder, build_transformer
from conceptloom.tinyworld.dit.sizes import SIZES, DitConfig
from conceptloom.tinyworld.dit.tokens import QWEN_IDS, T5_IDS, qwen_tokenizer, t5_tokenizer

from .models import DTYPES, PRESETS, make_host, vae_of

UNETS = ("sd15", "sdxl")
MODELS = (*UNETS, "anima", "zimage")
TITLES = {"sd15": "SD 1.5", "sdxl": "SDXL", "anima": "Anima", "zimage": "Z-Image"}


@dataclass(frozen=True, slots=True)
class Qwen:
    """Sizes of a Qwen3 text encoder; its heads are 128 wide."""

    layers: int
    heads: int
    shared: int  # heads of keys and values
    inner: int


# Configurations of the published models: Cosmos-Predict2 2B with Qwen3 0.6B; Z-Image 6B with
# Qwen3 4B.
FULL = {
    "anima": (
        DitConfig(
            family="anima", width=2048, heads=16, layers=28, rank=256, text_width=1024,
            text_layers=28, text_heads=16, adapter_layers=6, adapter_heads=16, resolution_px=1024,
        ),
        Qwen(28, 16, 8, 3072),
    ),
    "zimage": (
        DitConfig(
            family="zimage", width=3840, heads=30, layers=30, refiners=2, text_width=2560,
            text_layers=35, text_heads=32, resolution_px=1024,
        ),
        Qwen(36, 32, 8, 9728),
    ),
}  # fmt: skip
_CHANNELS = {True: (8, 8, 16, 16), False: (128, 256, 512, 512)}  # of the autoencoder


def full_size(
    name: str, device: str, dtype: str = "bf16", *, tiny: bool = False, compiled: bool = False,
    in_8_bits: bool = False,
) -> Any:  # fmt: skip
    """A random base model as a host.

    Args:
        name: one of `MODELS`.
        tiny: the same structure in some megabytes.
        compiled: its network is compiled; off a GPU without generating code.
        in_8_bits: the weights of its network are stored as float8.
    """
    torch.manual_seed(0)
    if name in UNETS:
        host: Any = make_host(PRESETS["tiny" if tiny else name], device, DTYPES[dtype])
        network, rebuilt = host.unet, lambda unet: _with_unet(host, unet)
    else:
        network, rebuilt = _transformer(name, device, DTYPES[dtype], tiny)
    if in_8_bits:
        network.enable_layerwise_casting(torch.float8_e4m3fn, DTYPES[dtype])
    if compiled:
        network = torch.compile(network, backend="eager" if device == "cpu" else "inductor")
    return rebuilt(network)


def _with_unet(host: DiffusersHost, unet: Any) -> DiffusersHost:
    from diffusers import DDPMScheduler

    scheduler = DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    return DiffusersHost(unet=unet, vae=host.vae, encoders=host._encoders, scheduler=scheduler)


def _transformer(
    name: str, device: str, dtype: torch.dtype, tiny: bool
) -> tuple[Any, Callable[[Any], Any]]:
    """The network, and what makes a host of it."""
    from diffusers import FlowMatchEulerDiscreteScheduler

    config, qwen = (SIZES[name], None) if tiny else FULL[name]
    with _made_on(device, dtype):
        network = build_transformer(config).eval().requires_grad_(False)
        text = build_text_encoder(config, QWEN_IDS) if qwen is None else _qwen(config, qwen)
        vae = vae_of(_CHANNELS[tiny], config.latent_channels, config.scaling)
        adapter = build_adapter(config, T5_IDS) if name == "anima" else None
    parts: dict[str, Any] = {
        "vae": vae,
        "text_encoder": text.eval().requires_grad_(False),
        "tokenizer": qwen_tokenizer(),
        "scheduler": FlowMatchEulerDiscreteScheduler(shift=config.shift),
    }
    if adapter is None:
        return network, lambda given: SingleStreamHost(transformer=given, **parts)
    parts["text_conditioner"] = adapter.eval().requires_grad_(False)
    parts["t5_tokenizer"] = t5_tokenizer()
    return network, lambda given: AnimaHost(transformer=given, **parts)


@contextmanager
def _made_on(device: str, dtype: torch.dtype) -> Iterator[None]:
    """Weights come into being where they are needed, in the precision that they have."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            yield
    finally:
        torch.set_default_dtype(before)


def _qwen(config: DitConfig, sizes: Qwen) -> Any:
    """A text encoder with the sizes of a published one; its attention is torch's own."""
    from transformers import Qwen3Config, Qwen3Model

    small = build_text_encoder(replace(config, text_layers=2), 8).config.to_dict()
    return Qwen3Model(Qwen3Config(**{
        **small, "vocab_size": QWEN_IDS, "num_hidden_layers": sizes.layers,
        "num_attention_heads": sizes.heads, "num_key_value_heads": sizes.shared,
        "intermediate_size": sizes.inner, "attn_implementation": "sdpa",
        "layer_types": ["full_attention"] * sizes.layers,
    }))  # fmt: skip
