"""Random LoRAs for the bundled model."""

from __future__ import annotations

import torch

from conceptloom.attention.local_lora import LocalConfig, LocalLora
from conceptloom.attention.local_setup import lora_for
from conceptloom.host.ports import Host

LINEAR = ("to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2", "q_proj", "fc1")
RESNET = ("in_layers.2", "out_layers.3", "emb_layers.1", "skip_connection", ".op", ".conv")
NORMS = ("norm1", "norm3", "norm", "out_layers.0", "out.0")


def random_lora(host: Host, seed: int, which: tuple[str, ...]) -> dict[str, torch.Tensor]:
    generator, tensors = torch.Generator().manual_seed(seed), {}
    for name in host.weight_names():
        network, _, path = name.removesuffix(".weight").partition(".")
        if not name.endswith(".weight") or not path.endswith(which):
            continue
        start = f"diffusion_model.{path}"
        if network != "unet":
            start = f"text_encoders.{network}.transformer.{path}"
        shape = host.weight(name).shape
        if len(shape) == 1:
            tensors[f"{start}.diff"] = 0.3 * torch.randn(shape, generator=generator)
            tensors[f"{start}.diff_b"] = 0.3 * torch.randn(shape, generator=generator)
            continue
        tensors[f"{start}.lora_up.weight"] = 0.3 * torch.randn(shape[0], 2, generator=generator)
        down = torch.randn(2, *shape[1:], generator=generator) / shape[1:].numel() ** 0.5
        tensors[f"{start}.lora_down.weight"] = down
    return tensors


def lora(host: Host, seed: int, words: str, which=LINEAR, mask=None, strength=1.0):
    return LocalLora(
        file=lora_for(host, random_lora(host, seed, which)),
        name=f"{seed}.safetensors",
        words=words,
        tokens=host.tokenize(words),
        strength=strength,
        text_strength=strength,
        config=LocalConfig(),
        mask=mask,
    )
