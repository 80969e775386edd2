"""TinyWorld Anima and TinyWorld Z-Image as ComfyUI's own MODEL, CLIP and VAE.

The classes are the host's, only their sizes are not: its detection knows the full models alone, so
they are built without it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import comfy.latent_formats
import comfy.ldm.anima.model
import comfy.ldm.cosmos.predict2
import comfy.ldm.lumina.model
import comfy.model_base
import comfy.model_management
import comfy.model_patcher
import comfy.sd
import comfy.supported_models
import comfy.text_encoders.anima
import comfy.text_encoders.z_image
import comfy.utils
import folder_paths
import torch
from comfy.model_base import ModelType
from torch import Tensor

from ...tinyworld.dit import keys
from ...tinyworld.dit.checkpoint import (
    CHECKPOINTS,
    DitFile,
    checked_autoencoder,
    read_dit,
    unread_weights,
)
from ...tinyworld.dit.sizes import DitConfig
from .tinyworld import first_stage

Weights = dict[str, Tensor]


class TinyAnimaLatents(comfy.latent_formats.Wan21):
    """Anima's latents, with an axis of time, and TinyWorld's scale."""

    latent_rgb_factors = None
    latent_rgb_factors_bias = None

    def __init__(self, config: DitConfig) -> None:
        super().__init__()
        self.latent_channels = config.latent_channels
        self.spacial_downscale_ratio = config.downscale
        self.taesd_decoder_name = None
        shape = (1, config.latent_channels, 1, 1, 1)
        self.latents_mean = torch.zeros(shape)
        self.latents_std = torch.full(shape, 1 / config.scaling)


class TinyZImageLatents(comfy.latent_formats.Flux):
    """Z-Image's latents, with TinyWorld's scale."""

    def __init__(self, config: DitConfig) -> None:
        super().__init__()
        self.latent_channels = config.latent_channels
        self.spacial_downscale_ratio = config.downscale
        self.latent_rgb_factors = self.latent_rgb_factors_bias = self.taesd_decoder_name = None
        self.scale_factor, self.shift_factor = config.scaling, 0.0


class TinyAnima(comfy.ldm.anima.model.Anima):
    """Anima with a small adapter; the host's constructor has the full one's size built in."""

    def __init__(self, *args: Any, adapter: dict[str, Any], **kwargs: Any) -> None:
        comfy.ldm.cosmos.predict2.MiniTrainDIT.__init__(self, *args, **kwargs)
        where = {name: kwargs.get(name) for name in ("device", "dtype", "operations")}
        self.llm_adapter = comfy.ldm.anima.model.LLMAdapter(**adapter, **where)


class TinyAnimaModel(comfy.model_base.Anima):
    """The host's model around it."""

    def __init__(self, config: Any, device: Any = None) -> None:
        comfy.model_base.BaseModel.__init__(
            self, config, ModelType.FLOW, device=device, unet_model=TinyAnima
        )


KINDS: dict[str, tuple[Any, Any, Any]] = {  # what the host knows a family by, latents, model
    "anima": (comfy.supported_models.Anima, TinyAnimaLatents, TinyAnimaModel),
    "zimage": (comfy.supported_models.ZImage, TinyZImageLatents, comfy.model_base.Lumina2),
}


def load_tinyworld_dit(family: str, path: Path | None = None) -> tuple[Any, Any, Any]:
    """MODEL, CLIP and VAE of a bundled transformer, or of another file in its format.

    Raises:
        ModelError: its weights are not there, or do not fit the bundled autoencoder.
    """
    where = path or CHECKPOINTS[family]
    file = read_dit(where)
    weights = file.full_weights()
    patcher, clip = _model(file, weights), _clip(file, weights)
    patcher.cached_patcher_init = (load_dit_model, (where,))
    clip.patcher.cached_patcher_init = (load_dit_clip, (where,))
    autoencoder = checked_autoencoder(file)
    vae = first_stage({k: v.float() for k, v in autoencoder.weights.items()}, autoencoder.config)
    return patcher, clip, vae


def load_dit_model(path: Path, disable_dynamic: bool = False) -> Any:
    """The MODEL alone; the host calls this when it needs a second copy."""
    file = read_dit(path)
    return _model(file, file.full_weights(), disable_dynamic)


def load_dit_clip(path: Path, disable_dynamic: bool = False) -> Any:
    """The patcher of the CLIP alone; the host calls this when it needs a second copy."""
    file = read_dit(path)
    return _clip(file, file.full_weights(), disable_dynamic).patcher


def _model(file: DitFile, weights: Weights, disable_dynamic: bool = False) -> Any:
    management, sizes = comfy.model_management, file.config
    kind, latents, network = KINDS[sizes.family]
    config = kind(sizes.comfyui_dict())
    if sizes.family == "anima":
        adapter = {**sizes.adapter_dict(), "num_heads": sizes.adapter_heads}
        config.unet_config["adapter"] = adapter
    config.latent_format = latents(sizes)
    config.sampling_settings = {**config.sampling_settings, "shift": sizes.shift}
    device, offload = management.get_torch_device(), management.unet_offload_device()
    config.set_inference_dtype(torch.float32, None)
    model = network(config, device=offload)
    patcher_kind = comfy.model_patcher.CoreModelPatcher
    if disable_dynamic:
        patcher_kind = comfy.model_patcher.ModelPatcher
    patcher = patcher_kind(model, load_device=device, offload_device=offload)
    state = {k: v.float() for k, v in weights.items() if k.startswith(keys.TRANSFORMER)}
    model.load_model_weights(state, keys.TRANSFORMER, assign=patcher.is_dynamic())
    return patcher


def _clip(file: DitFile, weights: Weights, disable_dynamic: bool = False) -> Any:
    family = file.config.family
    encoder = keys.ENCODER[family]
    state = {**keys.part_of(weights, keys.TEXT[family]), **unread_weights(file)}
    state = {f"model.{k}": v.float() for k, v in state.items()}
    known = inspect.signature(comfy.sd.CLIP).parameters
    return comfy.sd.CLIP(
        comfy.supported_models.supported_models_base.ClipTarget(*_classes(file.config)),
        embedding_directory=folder_paths.get_folder_paths("embeddings"),
        parameters=comfy.utils.calculate_parameters(state),
        state_dict=[state],
        model_options={
            f"{encoder}_model_config": file.config.text_dict(),
            "dtype": torch.float32,
        },
        # Hosts that do not know the word never ask for such a CLIP.
        **({"disable_dynamic": True} if disable_dynamic and "disable_dynamic" in known else {}),
    )


def _classes(config: DitConfig) -> tuple[Callable[..., Any], Any]:
    """The host's tokenizer, expecting embedding files of another width, and its encoder."""
    if config.family == "anima":
        source, encoder = comfy.text_encoders.anima, comfy.text_encoders.anima.AnimaTEModel
        kind: Any = source.AnimaTokenizer
    else:
        source, encoder = comfy.text_encoders.z_image, comfy.text_encoders.z_image.ZImageTEModel
        kind = source.ZImageTokenizer

    def tokenizer(embedding_directory: Any = None, tokenizer_data: Any = None) -> Any:
        made = kind(embedding_directory=embedding_directory, tokenizer_data=tokenizer_data or {})
        getattr(made, keys.ENCODER[config.family]).embedding_size = config.text_width
        return made

    return tokenizer, encoder
