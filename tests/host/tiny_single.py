"""Tiny single-stream transformers of the real classes, with equal weights in both hosts."""

from __future__ import annotations

from typing import Any

import comfy.ldm.krea2.model
import comfy.ldm.lumina.model
import comfy.model_base
import comfy.model_management
import comfy.model_patcher
import comfy.sd
import comfy.supported_models
import comfy.supported_models_base
import pytest
import torch
from comfy.model_base import ModelType
from comfy.text_encoders import qwen3vl
from comfy.text_encoders.krea2 import Krea2TEModel, Krea2Tokenizer
from comfy.text_encoders.z_image import ZImageTEModel, ZImageTokenizer
from tiny_models import Graph, random_state

Z_IMAGE = {
    "image_model": "lumina2", "patch_size": 2, "in_channels": 16, "dim": 256, "cap_feat_dim": 48,
    "n_layers": 3, "n_refiner_layers": 1, "qk_norm": True, "n_heads": 4, "n_kv_heads": 4,
    "axes_dims": [16, 24, 24], "axes_lens": [1536, 512, 512], "rope_theta": 256.0,
    "ffn_dim_multiplier": 8 / 3, "multiple_of": 1, "z_image_modulation": True,
    "time_scale": 1000.0, "pad_tokens_multiple": 32,
}  # fmt: skip
KREA_2 = {
    "image_model": "krea2", "features": 128, "channels": 16, "patch": 2, "layers": 3, "heads": 4,
    "kvheads": 2, "tdim": 64, "txtdim": 48, "txtlayers": 12, "txtheads": 4, "txtkvheads": 4,
}  # fmt: skip
NETWORKS = {
    "z_image": (
        comfy.supported_models.ZImage, Z_IMAGE, comfy.model_base.Lumina2,
        comfy.ldm.lumina.model.NextDiT, ModelType.FLOW,
    ),
    "krea2": (
        comfy.supported_models.Krea2, KREA_2, comfy.model_base.Krea2,
        comfy.ldm.krea2.model.SingleStreamDiT, ModelType.FLUX,
    ),
}  # fmt: skip


def make_patcher(kind: str, seed: int = 0) -> Any:
    """A MODEL as ComfyUI's loaders make it; sizes like these its detection does not know."""
    family, sizes, base, network, model_type = NETWORKS[kind]
    management = comfy.model_management
    config = family(dict(sizes))
    config.set_inference_dtype(torch.float32, None)

    def init(self: Any) -> None:
        comfy.model_base.BaseModel.__init__(self, config, model_type, unet_model=network)
        self.memory_usage_factor_conds = ("ref_latents",)

    model = type(base.__name__, (base,), {"__init__": init})()
    state = random_state(model.diffusion_model, torch.Generator().manual_seed(seed))
    for name in state:
        if name.endswith(("scale", "mod.lin", "modulation.lin")):  # zero is the neutral one
            state[name] = 0.1 * torch.randn(
                state[name].shape, generator=torch.Generator().manual_seed(len(name))
            )
    patcher = comfy.model_patcher.CoreModelPatcher(
        model, management.get_torch_device(), management.unet_offload_device()
    )
    model.load_model_weights(state, "", assign=patcher.is_dynamic())
    return patcher


_made: dict[str, Any] = {}


def patcher_of(kind: str) -> Any:
    """Built once; tests may not change it."""
    if kind not in _made:
        with torch.inference_mode():
            _made[kind] = make_patcher(kind)
    return _made[kind]


def diffusers_network(kind: str) -> Any:
    """The same weights in diffusers' class, by diffusers' own conversion."""
    if f"diffusers {kind}" not in _made:
        with torch.inference_mode(False):
            network = patcher_of(kind).model.diffusion_model
            state = {n: p.detach().clone().float() for n, p in network.state_dict().items()}
            made = (_z_image if kind == "z_image" else _krea2)(state)
            _made[f"diffusers {kind}"] = made.eval().requires_grad_(False)
    return _made[f"diffusers {kind}"]


def _z_image(state: dict[str, torch.Tensor]) -> Any:
    from diffusers import ZImageTransformer2DModel
    from diffusers.loaders import single_file_utils
    from diffusers.models.transformers.transformer_z_image import TimestepEmbedder

    names = ("in_channels", "dim", "n_layers", "n_refiner_layers", "n_heads", "n_kv_heads",
             "cap_feat_dim", "axes_dims", "axes_lens", "rope_theta")  # fmt: skip
    network = ZImageTransformer2DModel(**{name: Z_IMAGE[name] for name in names}, t_scale=1000.0)
    # Its middle is 1024 wide there, whatever the model's width.
    network.t_embedder = TimestepEmbedder(256, mid_size=256)
    convert = single_file_utils.convert_z_image_transformer_checkpoint_to_diffusers
    network.load_state_dict(convert(state))
    for module in network.modules():  # norms of heads: what the hosts divide by differs
        if hasattr(module, "norm_q"):
            module.norm_q.eps = module.norm_k.eps = torch.finfo(torch.float32).eps
    return network


def _krea2(state: dict[str, torch.Tensor]) -> Any:
    from diffusers import Krea2Transformer2DModel
    from diffusers.loaders import single_file_utils

    sizes: dict[str, Any] = KREA_2
    head = sizes["features"] // sizes["heads"]
    text = "txtfusion.layerwise_blocks.0.mlp.gate.weight"
    network = Krea2Transformer2DModel(
        in_channels=64,
        num_layers=sizes["layers"],
        attention_head_dim=head,
        num_attention_heads=sizes["heads"],
        num_key_value_heads=sizes["kvheads"],
        intermediate_size=state["blocks.0.mlp.gate.weight"].shape[0],
        timestep_embed_dim=sizes["tdim"],
        text_hidden_dim=sizes["txtdim"],
        num_text_layers=sizes["txtlayers"],
        text_num_attention_heads=sizes["txtheads"],
        text_num_key_value_heads=sizes["txtkvheads"],
        text_intermediate_size=state[text].shape[0],
        axes_dims_rope=(head - 12 * (head // 16), 6 * (head // 16), 6 * (head // 16)),
    )
    convert = single_file_utils.convert_krea2_transformer_checkpoint_to_diffusers
    network.load_state_dict(convert(state))
    return network


LLM = {
    "hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 3,
    "num_attention_heads": 2, "num_key_value_heads": 1,
}  # fmt: skip
CLIPS = {
    "z_image": (ZImageTokenizer, ZImageTEModel, "qwen3_4b", LLM),
    "krea2": (Krea2Tokenizer, Krea2TEModel, "qwen3vl_4b", {**LLM, "num_hidden_layers": 36}),
}
VISION = {"hidden_size": 32, "intermediate_size": 32, "depth": 1, "deepstack_visual_indexes": [0]}


def make_clip(kind: str, seed: int = 0) -> Any:
    """A CLIP as ComfyUI's loaders make it, with its own tokenizer."""
    tokenizer, text_model, name, sizes = CLIPS[kind]
    target = comfy.supported_models_base.ClipTarget(tokenizer, text_model)
    options = {f"{name}_model_config": sizes, "dtype": torch.float32}
    known = dict(qwen3vl.QWEN3VL_VISION)
    qwen3vl.QWEN3VL_VISION["qwen3vl_4b"] = VISION  # its eyes are not asked for anything here
    try:
        clip = comfy.sd.CLIP(target, embedding_directory=[], parameters=1, model_options=options)
    finally:
        qwen3vl.QWEN3VL_VISION.update(known)
    encoder = getattr(clip.cond_stage_model, name)
    state = random_state(encoder.transformer, torch.Generator().manual_seed(seed))
    encoder.transformer.load_state_dict(state, assign=clip.patcher.is_dynamic())
    return clip


def graph_of_single(kind: str) -> Graph:
    """MODEL and CLIP, built once; a VAE is not needed."""
    if f"clip {kind}" not in _made:
        with torch.inference_mode():
            _made[f"clip {kind}"] = make_clip(kind)
    return Graph(patcher_of(kind), _made[f"clip {kind}"], None)


@pytest.fixture(params=["z_image", "krea2"])
def single_kind(request: pytest.FixtureRequest) -> str:
    """For tests of both families, which call it `kind`."""
    return request.param


@pytest.fixture
def single_graph(kind: str) -> Graph:
    """For tests of both families, which call it `graph`."""
    return graph_of_single(kind)
