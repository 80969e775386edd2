"""Loads Anima's networks from where they lie; see `anima_files`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from ...errors import UnsupportedModelError
from .anima_files import PIPELINE, TOKENIZERS, AnimaFiles, Original
from .anima_sizes import ADAPTER, NETWORKS, TEXT, TRANSFORMER, VAE, network_of

_QUANTISED = ("scaled_fp8", "scale_weight", "weight_scale", "comfy_quant")  # ends of names
_CLASSES = {
    TRANSFORMER: ("CosmosTransformer3DModel",),
    ADAPTER: ("AnimaTextConditioner",),
    TEXT: ("Qwen3Model",),
    VAE: ("AutoencoderKLQwenImage", "AutoencoderKLWan", "AutoencoderKL"),
}


def load_anima(files: AnimaFiles, device: torch.device, dtype: torch.dtype) -> Any:
    """An `AnimaHost` of files; its VAE computes in float32.

    Raises:
        ModelError: a part is missing or does not fit.
    """
    from transformers import AutoTokenizer

    from ...tinyworld.dit.networks import with_own_padding_mask
    from .anima import AnimaHost

    networks = files.networks()
    tokenizers = {
        name: AutoTokenizer.from_pretrained(str(files.tokenizer(name)), local_files_only=True)
        for name in TOKENIZERS
    }
    parts: dict[str, Any] = {}
    for name in NETWORKS:
        in_dtype, place = torch.float32 if name == VAE else dtype, networks[name]
        if isinstance(place, Path):
            network = _component(name, place, in_dtype)
        else:
            network = network_of(name, _weights(place, in_dtype), place.path)
        parts[name] = network.to(device).eval().requires_grad_(False)
    with_own_padding_mask(parts[TRANSFORMER])
    host = AnimaHost(**parts, **tokenizers, scheduler=files.scheduler())
    host.origin = files.model.stem if files.model.is_file() else files.model.name
    return host


def _component(name: str, folder: Path, dtype: torch.dtype) -> Any:
    """A network in diffusers format; nothing but its weights is read, and no code runs."""
    import diffusers
    import transformers

    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    library: Any = diffusers
    kind = str(config.get("_class_name", ""))
    if name == TEXT:
        library, model_type = transformers, str(config.get("model_type"))
        kind = "Qwen3Model" if model_type == "qwen3" else model_type
    allowed = _CLASSES[name]
    if kind not in allowed:
        raise UnsupportedModelError(
            f"{folder} holds a {kind or 'network without a name'}, but Anima's {name} is a "
            f"{allowed[0]}. Pass a folder in the format of diffusers' {PIPELINE}."
        )
    network = getattr(library, kind).from_pretrained(
        str(folder), local_files_only=True, use_safetensors=True, **_in_dtype(library, dtype)
    )
    return network


def _in_dtype(library: Any, dtype: torch.dtype) -> dict[str, Any]:
    # transformers calls it dtype since version 5; diffusers takes both names.
    major = int(library.__version__.partition(".")[0])
    return {"dtype" if library.__name__ == "transformers" and major >= 5 else "torch_dtype": dtype}


def _weights(original: Original, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    if any(name.endswith(_QUANTISED) for name in original.shapes):
        raise UnsupportedModelError(
            f"{original.path} is quantised for ComfyUI (it has scales beside its weights), which "
            "Python does not read. Use the bf16 file, and --precision bf16."
        )
    with safe_open(str(original.path), framework="pt") as file:
        return {name: file.get_tensor(original.prefix + name).to(dtype) for name in original.shapes}
