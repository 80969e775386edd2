"""Tiny models with random weights, of the very classes that real checkpoints load into."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

import comfy.model_management
import comfy.sd
import comfy.sdxl_clip
import comfy.text_encoders.sd2_clip
import torch
from comfy import model_patcher, sd1_clip, supported_models
from comfy.model_base import ModelType

WIDTH = 64


@dataclass
class Graph:
    """What a loader node gives."""

    model: Any
    clip: Any
    vae: Any


UNET = {
    "image_size": 32,
    "in_channels": 4,
    "out_channels": 4,
    "model_channels": 32,
    "use_spatial_transformer": True,
    "num_heads": 4,
    "num_head_channels": -1,
}
SD1_UNET = UNET | {
    "num_res_blocks": [2, 2, 2, 2],
    "channel_mult": [1, 2, 2, 2],
    "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0],
    "transformer_depth_output": [1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0],
    "transformer_depth_middle": 1,
    "use_linear_in_transformer": False,
    "context_dim": WIDTH,
}
SD2_UNET = SD1_UNET | {"use_linear_in_transformer": True}
SDXL_UNET = UNET | {
    "num_res_blocks": [2, 2, 2],
    "channel_mult": [1, 2, 4],
    "transformer_depth": [0, 0, 1, 1, 2, 2],
    "transformer_depth_output": [0, 0, 0, 1, 1, 1, 2, 2, 2],
    "transformer_depth_middle": 2,
    "use_linear_in_transformer": True,
    "context_dim": WIDTH + 96,
    "num_classes": "sequential",
    "adm_in_channels": 6 * 256 + 96,
}
DDCONFIG = {
    "double_z": True,
    "z_channels": 4,
    "resolution": 64,
    "in_channels": 3,
    "out_ch": 3,
    "ch": 32,
    "ch_mult": [1, 1, 1, 1],
    "num_res_blocks": 1,
    "attn_resolutions": [],
    "dropout": 0.0,
}


class TinySD1(supported_models.SD15):
    unet_extra_config = {}  # noqa: RUF012


class TinySD2(supported_models.SD20):
    """Predicts noise, as SD 2 base does."""

    unet_extra_config = {"attn_precision": torch.float32}  # noqa: RUF012


class TinySD2V(TinySD2):
    def model_type(self, state_dict: Any, prefix: str = "") -> ModelType:
        return ModelType.V_PREDICTION


class TinySDXL(supported_models.SDXL):
    unet_extra_config = {}  # noqa: RUF012


def _text(width: int) -> dict[str, Any]:
    return {
        "hidden_size": width,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "intermediate_size": 2 * width,
    }


FAMILIES = {
    "sd1": (TinySD1, SD1_UNET, sd1_clip.SD1Tokenizer, sd1_clip.SD1ClipModel),
    "sd2": (
        TinySD2V,
        SD2_UNET,
        comfy.text_encoders.sd2_clip.SD2Tokenizer,
        comfy.text_encoders.sd2_clip.SD2ClipModel,
    ),
    "sdxl": (
        TinySDXL,
        SDXL_UNET,
        comfy.sdxl_clip.SDXLTokenizer,
        comfy.sdxl_clip.SDXLClipModel,
    ),
}


def make_graph(family: str, seed: int = 0, dtype: torch.dtype = torch.float32) -> Graph:
    """MODEL, CLIP and VAE of a family, the same ones for the same seed."""
    kind, sizes, tokenizer, text_model = FAMILIES[family]
    generator = torch.Generator().manual_seed(seed)
    management = comfy.model_management
    device = management.get_torch_device()

    config = kind(dict(sizes))
    config.set_inference_dtype(dtype, None if dtype == torch.float32 else torch.float32)
    network = config.get_model({}, "", device=management.unet_offload_device())
    state = random_state(network.diffusion_model, generator)
    patcher = model_patcher.CoreModelPatcher(network, device, management.unet_offload_device())
    network.load_model_weights(state, "", assign=patcher.is_dynamic())

    widths = {"clip_l": WIDTH, "clip_h": WIDTH, "clip_g": 96}
    options = {f"{name}_model_config": _text(width) for name, width in widths.items()}
    target = supported_models.supported_models_base.ClipTarget(tokenizer, text_model)
    clip = comfy.sd.CLIP(
        target,
        embedding_directory=[],
        parameters=1,
        model_options=options | {"dtype": torch.float32},
    )
    for name in widths:
        if encoder := getattr(clip.cond_stage_model, name, None):
            state = random_state(encoder.transformer, generator)
            encoder.transformer.load_state_dict(state, assign=clip.patcher.is_dynamic())

    shell = comfy.ldm.models.autoencoder.AutoencoderKL(ddconfig=dict(DDCONFIG), embed_dim=4)
    vae = comfy.sd.VAE(
        sd=random_state(shell, generator),
        config={"params": {"ddconfig": dict(DDCONFIG), "embed_dim": 4}},
        dtype=torch.float32,
    )
    return Graph(patcher, clip, vae)


def random_state(module: torch.nn.Module, generator: torch.Generator) -> dict[str, torch.Tensor]:
    """A state dict of well-scaled random weights; the host leaves them uninitialised."""
    state = {}
    for name, value in module.state_dict().items():
        shape = tuple(value.shape)
        if len(shape) > 1:
            scale = 0.5 if "embedding" in name else 1.0
            state[name] = torch.randn(shape, generator=generator) * scale / prod(shape[1:]) ** 0.5
        elif name.endswith("bias"):
            state[name] = 0.05 * torch.randn(shape, generator=generator)
        else:
            state[name] = 1 + 0.05 * torch.randn(shape, generator=generator)
    return state


_made: dict[str, Graph] = {}


def graph_of(family: str) -> Graph:
    """Built once, in inference mode as ComfyUI's loaders do; tests may not change it."""
    if family not in _made:
        with torch.inference_mode():
            _made[family] = make_graph(family)
    return _made[family]


def state_of(patcher: Any) -> dict[str, torch.Tensor]:
    """A copy of every weight, loaded as this patcher has it and not as the last user had it."""
    comfy.model_management.load_models_gpu([patcher])
    return {name: value.clone() for name, value in patcher.model.state_dict().items()}


def assert_same_state(patcher: Any, before: dict[str, torch.Tensor]) -> None:
    """Every weight is bit for bit what it was, and nothing hangs on any module."""
    assert left_behind(patcher.model) == []
    after = state_of(patcher)
    assert [n for n, value in before.items() if not torch.equal(value, after[n])] == []


def left_behind(module: torch.nn.Module) -> list[str]:
    """Names of modules that still carry a hook, a wrapper or a forward of their own."""
    return [
        name
        for name, part in module.named_modules()
        if part._forward_hooks
        or part._forward_pre_hooks
        or getattr(part, "weight_function", None)
        or getattr(part, "bias_function", None)
        or "forward" in part.__dict__
    ]
