"""A tiny Anima of the real classes, and the same weights in diffusers."""

from __future__ import annotations

from typing import Any

import comfy.model_base
import comfy.model_management
import comfy.model_patcher
import comfy.sd
import comfy.supported_models
import comfy.text_encoders.anima
import torch
from comfy.ldm.anima.model import Anima, LLMAdapter
from comfy.ldm.cosmos.predict2 import MiniTrainDIT
from comfy.model_base import ModelType
from tiny_models import Graph

WIDTH, HEADS, BLOCKS, TEXT = 96, 3, 5, 64
CHANNELS = 16
EQUAL_EPS = 1e-6  # diffusers has 1e-5 for the norms of q and k, ComfyUI this
SIZES = {
    "image_model": "anima",
    "max_img_h": 240,
    "max_img_w": 240,
    "max_frames": 128,
    "in_channels": CHANNELS,
    "out_channels": CHANNELS,
    "patch_spatial": 2,
    "patch_temporal": 1,
    "model_channels": WIDTH,
    "num_blocks": BLOCKS,
    "num_heads": HEADS,
    "crossattn_emb_channels": TEXT,
    "concat_padding_mask": True,
    "pos_emb_cls": "rope3d",
    "pos_emb_learnable": True,
    "pos_emb_interpolation": "crop",
    "use_adaln_lora": True,
    "adaln_lora_dim": 16,
    "rope_h_extrapolation_ratio": 4.0,
    "rope_w_extrapolation_ratio": 4.0,
    "rope_t_extrapolation_ratio": 1.0,
    "extra_per_block_abs_pos_emb": False,
    "rope_enable_fps_modulation": False,
}
ADAPTER = {"source_dim": TEXT, "target_dim": TEXT, "model_dim": TEXT, "num_layers": 2}
QWEN = {
    "hidden_size": TEXT,
    "intermediate_size": 2 * TEXT,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
}


class TinyAnima(Anima):
    """Its own class has an adapter of one size only."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        MiniTrainDIT.__init__(self, *args, **kwargs)
        place = {name: kwargs.get(name) for name in ("device", "dtype", "operations")}
        self.llm_adapter = LLMAdapter(**ADAPTER, num_heads=4, **place)


class TinyAnimaModel(comfy.model_base.Anima):
    def __init__(self, config: Any, network: type = TinyAnima) -> None:
        comfy.model_base.BaseModel.__init__(
            self, config, ModelType.FLOW, device=None, unet_model=network
        )


@torch.no_grad()
def randomise(module: torch.nn.Module, seed: int) -> None:
    """Well-scaled random weights, different for every parameter."""
    generator = torch.Generator().manual_seed(seed)
    for name, weight in sorted(module.named_parameters()):
        noise = torch.randn(weight.shape, generator=generator)
        if weight.ndim < 2:
            noise = (1 if "norm" in name else 0) + 0.1 * noise
        elif not name.endswith(("embed.weight", "embed_tokens.weight")):
            noise = noise * weight.shape[-1] ** -0.5
        weight.copy_(noise)


def make_anima(seed: int = 0, dtype: torch.dtype = torch.float32) -> Graph:
    management = comfy.model_management
    device, offload = management.get_torch_device(), management.unet_offload_device()
    config = comfy.supported_models.Anima(dict(SIZES))
    config.set_inference_dtype(dtype, None if dtype == torch.float32 else torch.float32)
    model = TinyAnimaModel(config)
    randomise(model.diffusion_model, seed)
    patcher = comfy.model_patcher.CoreModelPatcher(model, device, offload)
    clip = comfy.sd.CLIP(
        comfy.supported_models.supported_models_base.ClipTarget(
            comfy.text_encoders.anima.AnimaTokenizer, comfy.text_encoders.anima.te()
        ),
        embedding_directory=[],
        parameters=1,
        model_options={"qwen3_06b_model_config": QWEN, "dtype": torch.float32},
    )
    randomise(clip.cond_stage_model.qwen3_06b.transformer, seed + 1)
    return Graph(patcher, clip, None)


_made: dict[int, Graph] = {}


def anima(seed: int = 0) -> Graph:
    """Built once, in inference mode as ComfyUI's loaders do; tests may not change it."""
    if seed not in _made:
        with torch.inference_mode():
            _made[seed] = make_anima(seed)
    return _made[seed]


def in_diffusers(graph: Graph, eps: float = EQUAL_EPS) -> Any:
    """The same model as a host of diffusers."""
    import diffusers
    import transformers
    from diffusers.loaders.single_file_utils import (
        convert_cosmos_transformer_checkpoint_to_diffusers as converted,
    )

    from conceptloom.host.diffusers import AnimaHost

    with torch.inference_mode():  # what other tests applied to the model is taken off
        comfy.model_management.load_models_gpu([graph.model, graph.clip.patcher])
    with torch.inference_mode(False), torch.random.fork_rng():
        state = _copied(graph.model.model.diffusion_model)
        adapter = {k: state.pop(k) for k in list(state) if k.startswith("llm_adapter.")}
        network = diffusers.CosmosTransformer3DModel(
            in_channels=CHANNELS,
            out_channels=CHANNELS,
            num_attention_heads=HEADS,
            attention_head_dim=WIDTH // HEADS,
            num_layers=BLOCKS,
            text_embed_dim=TEXT,
            adaln_lora_dim=SIZES["adaln_lora_dim"],
            max_size=(128, 240, 240),
            patch_size=(1, 2, 2),
            rope_scale=(1.0, 4.0, 4.0),
            concat_padding_mask=True,
            extra_pos_embed_type=None,
        )
        network.load_state_dict(converted(state))
        for name, module in network.named_modules():
            if name.endswith(("norm_q", "norm_k")):
                module.eps = eps
        conditioner = diffusers.AnimaTextConditioner(**ADAPTER, num_attention_heads=4)
        conditioner.load_state_dict(
            {name.removeprefix("llm_adapter."): value for name, value in adapter.items()}
        )
        qwen = transformers.Qwen3Model(
            transformers.Qwen3Config(
                vocab_size=151936, head_dim=128, rope_theta=1e6, rms_norm_eps=1e-6, **QWEN
            )
        )
        encoder = graph.clip.cond_stage_model.qwen3_06b.transformer
        qwen.load_state_dict(_copied(encoder.model))
        vae = diffusers.AutoencoderKL(
            block_out_channels=(8, 8), norm_num_groups=4, latent_channels=CHANNELS,
            down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
        )  # fmt: skip
        return AnimaHost(
            transformer=network.eval(),
            text_conditioner=conditioner.eval(),
            vae=vae.eval(),
            text_encoder=qwen.eval(),
            tokenizer=graph.clip.tokenizer.qwen3_06b.tokenizer,
            t5_tokenizer=graph.clip.tokenizer.t5xxl.tokenizer,
            scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
        )


def _copied(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone().float() for name, value in module.state_dict().items()}
