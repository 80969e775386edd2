"""Loads base models from local files, without downloads."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any, cast

import torch

from ..errors import ConfigError, ModelError, UnsupportedModelError
from ..host.diffusers import AnimaHost, DiffusersHost, SingleStreamHost
from ..host.diffusers.anima_files import PIPELINE as ANIMA_PIPELINE
from ..host.diffusers.anima_files import AnimaFiles, anima_files, bytes_of
from ..host.diffusers.anima_loading import load_anima
from ..host.diffusers.file_facts import check_layout, with_facts
from ..host.ports import Host
from ..tinyworld.dit.checkpoint import load_dit
from ..tinyworld.dit.sizes import FAMILIES
from ..training.free_memory import free_memory
from .options import TINYWORLD, Precision

log = logging.getLogger("conceptloom")

TRANSFORMERS = {f"{TINYWORLD}-{family}": family for family in FAMILIES}
UNETS = ("StableDiffusionPipeline", "StableDiffusionXLPipeline")
SINGLE_STREAM = ("ZImagePipeline", "Krea2Pipeline")
PIPELINES = (*UNETS, *SINGLE_STREAM)
INDEX = "model_index.json"
HOW = "pip install 'conceptloom[diffusers]'"


_DTYPES = {
    Precision.FP32: torch.float32,
    Precision.BF16: torch.bfloat16,
    Precision.FP16: torch.float16,
}


def open_host(
    model: str = TINYWORLD,
    *,
    layout: Path | None = None,
    device: str = "auto",
    precision: Precision = Precision.FP32,
) -> Host:
    """A base model, ready for training and sampling.

    Args:
        model: "tinyworld" (comes with the pack), a folder in diffusers format or with Anima's
            published files, or a single .safetensors file in the original layout.
            "tinyworld-anima" and "tinyworld-zimage" are not in this version; tinyworld/recipe
            trains them.
        layout: for a single file, a folder of the same family in diffusers format; only its
            small JSON files and its tokenizer are read. Shapes, markers and metadata of the file
            take precedence. For Anima, a folder with whatever the model lacks: tokenizers, text
            encoder, VAE.
        device: "auto" (CUDA if available), "cpu", "cuda", "cuda:1", "mps", ...

    Raises:
        ModelError: the files do not exist, are not a supported base model, or a file and
            its layout disagree.
    """
    where, dtype = device_of(device), _DTYPES[precision]
    if model == TINYWORLD:
        return _tinyworld(where, dtype)
    if model in TRANSFORMERS:
        return _tiny_transformer(TRANSFORMERS[model], where, dtype)
    path = Path(model)
    try:
        if (files := _anima(path, layout)) is not None:
            tell_room(path.name, bytes_of(files, dtype), where, precision)
            return cast(Host, load_anima(files, where, dtype))
        pipeline = _pipeline(path, layout)
    except ImportError as error:
        raise ModelError(f"Model files need diffusers ({HOW}): {error}.") from error
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise ModelError(f"{path} could not be read as a base model: {error}") from error
    pipeline.vae.to(where)
    for name in ("unet", "transformer", "text_encoder", "text_encoder_2"):
        if (network := getattr(pipeline, name, None)) is not None:
            _cast(network, where, dtype)
    kind = SingleStreamHost if type(pipeline).__name__ in SINGLE_STREAM else DiffusersHost
    return cast(Host, kind.from_pipeline(pipeline))


def _tinyworld(device: torch.device, dtype: torch.dtype) -> Host:
    try:
        host = DiffusersHost.tinyworld(prepared=lambda network: _cast(network, device, dtype))
    except ImportError as error:
        raise ModelError(f"TinyWorld outside ComfyUI needs diffusers ({HOW}).") from error
    host.origin = "tinyworld"
    return cast(Host, host)


def _tiny_transformer(family: str, device: torch.device, dtype: torch.dtype) -> Host:
    try:
        if family == "anima":
            anima = AnimaHost.tinyworld(prepared=lambda network: _cast(network, device, dtype))
            return cast(Host, anima)
        world = load_dit(family)
    except ImportError as error:
        raise ModelError(f"TinyWorld outside ComfyUI needs diffusers ({HOW}).") from error
    world.vae.to(device)
    host = SingleStreamHost(
        transformer=_cast(world.transformer, device, dtype),
        vae=world.vae,
        text_encoder=_cast(world.text_encoder, device, dtype),
        tokenizer=world.tokenizer,
        scheduler=world.scheduler,
    )
    host.origin = "tinyworld"
    return cast(Host, host)


def _cast(network: Any, device: torch.device, dtype: torch.dtype) -> Any:
    network.to(device)
    if dtype is torch.float16:
        return network.half()
    return network.bfloat16() if dtype is torch.bfloat16 else network


def device_of(name: str) -> torch.device:
    """ "auto" is CUDA if available.

    Raises:
        ConfigError: torch has no such device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ConfigError("device", name, "auto, cpu, or a device that torch finds here") from error
    return device


def _anima(path: Path, layout: Path | None) -> AnimaFiles | None:
    """Where Anima's parts lie; None for every other model, and for one that is not there."""
    if not path.is_dir() and not (path.suffix == ".safetensors" and path.is_file()):
        return None
    return anima_files(path, layout)


def tell_room(name: str, needed: int, device: torch.device, precision: Precision) -> None:
    """A line with the memory that a model's weights take; a warning where there is less."""
    gib = needed / 2**30
    log.info("The weights of %s take %.1f GiB (%s).", name, gib, precision.value)
    there = free_memory(device)
    if there is None or needed <= there:
        return
    advice = "" if precision is not Precision.FP32 else " --precision bf16 takes about half of it."
    log.warning(
        "The weights of %s take %.1f GiB, but %s has %.1f GiB free.%s",
        name, gib, device, there / 2**30, advice,
    )  # fmt: skip


def _pipeline(path: Path, layout: Path | None) -> Any:
    if path.is_dir():
        return _pipeline_class(path).from_pretrained(
            path, local_files_only=True, use_safetensors=True, **_without_filter(path)
        )
    if path.suffix != ".safetensors" or not path.is_file():
        raise ModelError(
            f"There is no base model {path}; pass {TINYWORLD}, a folder in diffusers format, or a "
            ".safetensors file. (Pickle files, .ckpt and .bin, are not supported.)"
        )
    if layout is None:
        raise ModelError(
            f"{path.name} contains weights but not the configuration of its networks. Name a "
            "folder of the same family in diffusers format with --layout; it needs only the JSON "
            "files and the tokenizer, not the weights."
        )
    kind = _pipeline_class(layout)
    if kind.__name__ in SINGLE_STREAM:
        raise UnsupportedModelError(
            f"{layout} is a {kind.__name__}; a single file of this family is not read. Pass a "
            "folder in diffusers format with its weights as the model."
        )
    facts = check_layout(path, layout)
    pipeline = kind.from_single_file(
        str(path), config=str(layout), local_files_only=True, **_without_filter(layout)
    )
    pipeline.scheduler, overruled = with_facts(pipeline.scheduler, facts)
    if overruled:
        log.warning("%s %s.", path.name, overruled)
    return pipeline


def check_files(model: str, layout: Path | None) -> None:
    """Check the headers of a base model's local files before any work begins.

    Raises:
        ModelError: a single file and its layout disagree, or Anima lacks a part.
    """
    path = Path(model)
    if (files := _anima(path, layout)) is not None:
        files.networks()
    elif (
        path.is_file() and path.suffix == ".safetensors" and layout is not None and layout.is_dir()
    ):
        check_layout(path, layout)


def _without_filter(folder: Path) -> dict[str, Any]:
    """What keeps a Stable Diffusion pipeline from loading a filter of pictures."""
    is_unet = _class_name(folder) in UNETS
    return {"safety_checker": None, "feature_extractor": None} if is_unet else {}


def _class_name(folder: Path) -> str:
    index = folder / INDEX
    if not index.is_file():
        raise ModelError(f"{folder} contains no {INDEX}; it is not a model in diffusers format.")
    return json.loads(index.read_text(encoding="utf-8")).get("_class_name") or "nothing"


def _pipeline_class(folder: Path) -> Any:
    name = _class_name(folder)
    if name not in PIPELINES:
        raise UnsupportedModelError(
            f"{folder} is a {name}; ConceptLoom supports Stable Diffusion 1.x, 2.x and XL, Anima, "
            f"Z-Image and Krea 2 ({', '.join((*PIPELINES, ANIMA_PIPELINE))})."
        )
    import diffusers

    return getattr(diffusers, name)
