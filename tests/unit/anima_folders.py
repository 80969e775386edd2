"""Tiny Anima models in the layouts that real ones are published in."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from conceptloom.host.diffusers import AnimaHost
from conceptloom.tinyworld.dit import keys
from conceptloom.tinyworld.dit.checkpoint import load_dit

from .tiny_transformers import random_file

REPOSITORY = "circlestone-labs/Anima-Base-v1.0-Diffusers"  # what the published index names


@dataclass(frozen=True)
class Parts:
    """What a pipeline of diffusers has, with random weights."""

    networks: dict[str, Any]
    tokenizers: dict[str, Any]
    scheduler: Any

    def host(self) -> AnimaHost:
        return AnimaHost(**self.networks, **self.tokenizers, scheduler=self.scheduler)


def random_parts(folder: Path) -> Parts:
    """An Anima whose VAE is of Qwen-Image's class."""
    from diffusers import AutoencoderKLQwenImage

    world = load_dit("anima", random_file("anima", folder / "world.safetensors"))
    torch.manual_seed(4)
    vae = AutoencoderKLQwenImage(base_dim=8, z_dim=16).eval().requires_grad_(False)
    networks = {
        "transformer": world.transformer, "text_conditioner": world.adapter, "vae": vae,
        "text_encoder": world.text_encoder,
    }  # fmt: skip
    tokenizers = {"tokenizer": world.tokenizer, "t5_tokenizer": world.t5_tokenizer}
    return Parts(networks, tokenizers, world.scheduler)


def save_pipeline(parts: Parts, folder: Path) -> Path:
    """As diffusers publishes a modular pipeline: its index names a repository, not this folder."""
    index: dict[str, Any] = {
        "_class_name": "AnimaModularPipeline", "_blocks_class_name": "AnimaAutoBlocks",
        "_diffusers_version": "0.40.0",
    }  # fmt: skip
    transformer = parts.networks["transformer"]  # TinyWorld's brings its padding mask in a hook
    transformer.register_to_config(concat_padding_mask=True)
    components = {**parts.networks, **parts.tokenizers, "scheduler": parts.scheduler}
    for name, component in components.items():
        component.save_pretrained(str(folder / name))
        kind = ["diffusers", type(component).__name__]
        where = {"pretrained_model_name_or_path": REPOSITORY, "subfolder": name}
        index[name] = [*kind, {**where, "type_hint": kind, "revision": None, "variant": None}]
    transformer.register_to_config(concat_padding_mask=False)
    (folder / "modular_model_index.json").write_text(json.dumps(index))
    return folder


def original_weights(parts: Parts, prefix: str = "net.") -> dict[str, dict[str, torch.Tensor]]:
    """The weights of the published files: name of a file's folder -> names and weights."""
    transformer = keys.transformer_to_comfyui(parts.networks["transformer"].state_dict(), "anima")
    adapter = parts.networks["text_conditioner"].state_dict()
    text = parts.networks["text_encoder"].state_dict()
    extra = {f"{prefix}pos_embedder.seq": torch.arange(4.0)}
    return {
        "diffusion_models": {
            **{prefix + name: weight for name, weight in transformer.items()},
            **{f"{prefix}llm_adapter.{name}": weight for name, weight in adapter.items()},
            **extra,
        },
        "text_encoders": {f"model.{name}": weight for name, weight in text.items()},
        "vae": dict(parts.networks["vae"].state_dict()),
    }


def save_originals(parts: Parts, folder: Path, prefix: str = "net.") -> dict[str, Path]:
    """As Anima's authors publish it, with the tokenizers beside the files."""
    files = {}
    for name, weights in original_weights(parts, prefix).items():
        files[name] = folder / "split_files" / name / f"tiny_{name}.safetensors"
        files[name].parent.mkdir(parents=True)
        save_file({n: w.contiguous().clone() for n, w in weights.items()}, str(files[name]))
    save_tokenizers(parts, folder)
    return files


def save_tokenizers(parts: Parts, folder: Path) -> Path:
    for name, tokenizer in parts.tokenizers.items():
        tokenizer.save_pretrained(str(folder / name))
    return folder
