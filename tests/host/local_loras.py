"""Random LoRA files for the tiny models, and core's way to load them."""

from __future__ import annotations

from typing import Any

import comfy.sd
import torch
from tiny_models import Graph

from conceptloom.attention.local_lora import LocalConfig, LocalLora
from conceptloom.concepts.lora_file import LoraFile, lora_of
from conceptloom.concepts.lora_keys import key_map
from conceptloom.host.comfyui.host import ComfyHost
from conceptloom.nodes.local_lora import with_local_lora

Tensors = dict[str, torch.Tensor]
ATTENTION = ("attn1.to_q", "attn1.to_v", "attn2.to_q", "attn2.to_k", "attn2.to_v", "to_out.0")
LINEAR = (*ATTENTION, "ff.net.0.proj", "ff.net.2", "proj_in", "proj_out", "q_proj", "v_proj", "fc1")
RESNET = ("in_layers.2", "out_layers.3", "emb_layers.1", "skip_connection")
CONVOLUTIONS = (*RESNET, ".op", ".conv", "input_blocks.0.0", "out.2")
NORMS = ("norm1", "norm", "out_layers.0")


def random_lora(
    graph: Graph, seed: int = 0, *, unet: tuple[str, ...] = LINEAR, text: bool = True,
    size: float = 0.4, rank: int = 2,
) -> Tensors:  # fmt: skip
    """A LoRA on all modules whose names end so, in the names of ComfyUI's own trainer."""
    host = ComfyHost(graph.model, graph.clip)
    generator = torch.Generator().manual_seed(seed)
    tensors: Tensors = {}
    for name in host.weight_names():
        network, _, path = name.removesuffix(".weight").partition(".")
        if not name.endswith(".weight") or not path.endswith(unet):
            continue
        if network != "unet" and not text:
            continue
        start = f"diffusion_model.{path}"
        if network != "unet":
            start = f"text_encoders.{network}.transformer.{path}"
        shape = host.weight(name).shape
        if len(shape) == 1:
            tensors[f"{start}.diff"] = size * torch.randn(shape, generator=generator)
            tensors[f"{start}.diff_b"] = size * torch.randn(shape, generator=generator)
            continue
        inner = (rank, *shape[1:])
        count = max(1, shape[1:].numel())
        up = torch.randn(shape[0], rank, *[1] * (len(shape) - 2), generator=generator)
        tensors[f"{start}.lora_up.weight"] = size * up
        tensors[f"{start}.lora_down.weight"] = torch.randn(inner, generator=generator) / count**0.5
        tensors[f"{start}.alpha"] = torch.tensor(float(rank))
    return tensors


def file_of(graph: Graph, tensors: Tensors) -> LoraFile:
    host = ComfyHost(graph.model, graph.clip)
    names = key_map(host.weight_names(), host.sites, host.encoders)
    return lora_of(tensors, names, lambda name: tuple(host.weight(name).shape))


def local(
    graph: Graph, tensors: Tensors, words: str = "cat", *, model: Any = None, clip: Any = None,
    mask: torch.Tensor | None = None, strength: float = 1.0, text_strength: float | None = None,
    trigger: str = "", on_masks: Any = None, **config: Any,
) -> tuple[Any, Any]:  # fmt: skip
    """MODEL and CLIP with a localised LoRA."""
    model, clip = model or graph.model, clip or graph.clip
    lora = LocalLora(
        file=file_of(graph, tensors),
        name="test.safetensors",
        words=words,
        tokens=ComfyHost(graph.model, graph.clip).tokenize(words),
        strength=strength,
        text_strength=strength if text_strength is None else text_strength,
        config=LocalConfig(**config),
        mask=mask,
        trigger=ComfyHost(graph.model, graph.clip).tokenize(trigger),
    )
    return with_local_lora(model, clip, lora, on_masks)


def merged(graph: Graph, tensors: Tensors, strength: float = 1.0) -> tuple[Any, Any]:
    """What core's Load LoRA gives."""
    return comfy.sd.load_lora_for_models(graph.model, graph.clip, tensors, strength, strength)
