"""The bundled tiny checkpoint as ComfyUI's own MODEL, CLIP and VAE.

It has Stable Diffusion 1's structure, so every stock node works with it; only its sizes are its
own. Nothing is registered with the host: its detection of checkpoints stays as it is.
"""

from __future__ import annotations

import copy
import inspect
from pathlib import Path
from typing import Any

import comfy.latent_formats
import comfy.model_management
import comfy.model_patcher
import comfy.sd
import comfy.sd1_clip
import comfy.supported_models
import comfy.utils
import folder_paths
import torch
from comfy.model_base import ModelType
from torch import Tensor, nn

from ...tinyworld.checkpoint import CHECKPOINT, TinyWorldFile, read_checkpoint
from ...tinyworld.model import ModelConfig

UNET, VAE = "model.diffusion_model.", "first_stage_model."
Sizes = dict[str, Any]  # of the networks, in the words of the original code


class TinyWorldLatents(comfy.latent_formats.LatentFormat):
    """Latents between VAE and UNet."""

    def __init__(self, scale: float = 1.0, channels: int = 16, downscale: int = 8) -> None:
        self.scale_factor = scale
        self.latent_channels = channels
        self.spacial_downscale_ratio = downscale  # lets Empty Latent Image give the right size


class TinyWorldConfig(comfy.supported_models.SD15):
    """SD1 with other sizes."""

    unet_extra_config: Sizes = {}  # noqa: RUF012  (the host's own convention)
    latent_format = TinyWorldLatents
    supported_inference_dtypes = [torch.float32, torch.bfloat16, torch.float16]  # noqa: RUF012

    def __init__(self, file: TinyWorldFile) -> None:
        sizes = file.config.ldm_dict()["unet"]
        super().__init__({k: v for k, v in sizes.items() if k not in ("norm_groups", "image_size")})
        self.unet_config["image_size"] = file.config.latent_size
        self.latent_format = TinyWorldLatents(
            file.config.scaling_factor, file.config.latent_channels, file.config.downscale
        )
        self.predicts_velocity = file.config.prediction_type == "v_prediction"

    def inpaint_model(self) -> bool:
        """The host takes any SD1 with more than four channels for an inpainting model."""
        return False

    def model_type(self, state_dict: dict[str, Tensor], prefix: str = "") -> ModelType:
        return ModelType.V_PREDICTION if self.predicts_velocity else ModelType.EPS


def load_tinyworld(path: Path = CHECKPOINT) -> tuple[Any, Any, Any]:
    """MODEL, CLIP and VAE of the bundled checkpoint, or of another one in its format."""
    file = read_checkpoint(path)
    weights = file.full_weights()
    patcher = _model(file, weights)
    patcher.cached_patcher_init = (load_tinyworld_model, (path,))
    clip, vae = _clip(file, weights), _vae(file, weights)
    clip.patcher.cached_patcher_init = (load_tinyworld_clip, (path,))
    return patcher, clip, vae


def load_tinyworld_model(path: Path = CHECKPOINT, disable_dynamic: bool = False) -> Any:
    """The MODEL alone; the host calls this when it needs a second copy."""
    file = read_checkpoint(path)
    return _model(file, file.full_weights(), disable_dynamic)


def load_tinyworld_clip(path: Path = CHECKPOINT, disable_dynamic: bool = False) -> Any:
    """The patcher of the CLIP alone; the host calls this when it needs a second copy."""
    file = read_checkpoint(path)
    return _clip(file, file.full_weights(), disable_dynamic).patcher


def _model(file: TinyWorldFile, weights: dict[str, Tensor], disable_dynamic: bool = False) -> Any:
    management, config = comfy.model_management, TinyWorldConfig(file)
    device, offload = management.get_torch_device(), management.unet_offload_device()
    config.set_inference_dtype(torch.float32, None)
    model = config.get_model({}, "", device=offload)
    _set_groups(model.diffusion_model, file.config.unet_norm_groups)
    kind = comfy.model_patcher.CoreModelPatcher
    if disable_dynamic:
        kind = comfy.model_patcher.ModelPatcher
    patcher = kind(model, load_device=device, offload_device=offload)
    state = {k: v.float() for k, v in weights.items() if k.startswith(UNET)}
    model.load_model_weights(state, UNET, assign=patcher.is_dynamic())
    return patcher


def _clip(file: TinyWorldFile, weights: dict[str, Tensor], disable_dynamic: bool = False) -> Any:
    state = TinyWorldConfig(file).process_clip_state_dict(
        {k: v.float() for k, v in weights.items() if k.startswith("cond_stage_model.")}
    )
    width = file.config.context_dim
    target = comfy.supported_models.supported_models_base.ClipTarget(
        _tokenizer_of_width(width), comfy.sd1_clip.SD1ClipModel
    )
    text = {k: v for k, v in file.config.ldm_dict()["text"].items() if k != "model_type"}
    return comfy.sd.CLIP(
        target,
        embedding_directory=folder_paths.get_folder_paths("embeddings"),
        parameters=comfy.utils.calculate_parameters(state),
        state_dict=[_for_encoder(state, width)],
        model_options={"clip_l_model_config": text, "dtype": torch.float32},
        # Hosts that do not know the word never ask for such a CLIP.
        **({"disable_dynamic": True} if disable_dynamic and _knows_dynamic(comfy.sd.CLIP) else {}),
    )


def _knows_dynamic(kind: Any) -> bool:
    return "disable_dynamic" in inspect.signature(kind).parameters


def _for_encoder(state: dict[str, Tensor], width: int) -> dict[str, Tensor]:
    """State of the one encoder; SD1 has no projection, which the host writes as the identity."""
    renamed = comfy.utils.state_dict_prefix_replace(
        state, {"clip_l.transformer.": ""}, filter_keys=True
    )
    return {**renamed, "text_projection.weight": torch.eye(width)}


def _tokenizer_of_width(width: int) -> Any:
    """The host's own tokenizer, expecting embedding files of another width."""

    def inner(**arguments: Any) -> Any:
        return comfy.sd1_clip.SDTokenizer(embedding_size=width, **arguments)

    def tokenizer(embedding_directory: Any = None, tokenizer_data: Any = None) -> Any:
        return comfy.sd1_clip.SD1Tokenizer(
            embedding_directory=embedding_directory,
            tokenizer_data=tokenizer_data or {},
            tokenizer=inner,
        )

    return tokenizer


def _vae(file: TinyWorldFile, weights: dict[str, Tensor]) -> Any:
    state = {k.removeprefix(VAE): v.float() for k, v in weights.items() if k.startswith(VAE)}
    return first_stage(state, file.config)


def first_stage(state: dict[str, Tensor], config: ModelConfig) -> Any:
    """A VAE of TinyWorld's sizes; `state` has the original code's names without a prefix."""
    sizes = copy.deepcopy(config.ldm_dict()["vae"])
    sizes.pop("norm_groups", None)
    sizes["ddconfig"].pop("norm_groups", None)
    vae = comfy.sd.VAE(sd=state, config={"params": sizes}, dtype=torch.float32)
    _set_groups(vae.first_stage_model, config.vae_norm_groups)
    vae.downscale_ratio = vae.upscale_ratio = config.downscale
    vae.latent_channels = config.latent_channels
    return vae


def _set_groups(network: nn.Module, groups: int) -> None:
    """The host builds every group norm with 32 groups; the weights fit any number of them."""
    for module in network.modules():
        if isinstance(module, nn.GroupNorm):
            module.num_groups = groups
