"""Weight names: diffusers and transformers <-> what ComfyUI reads of Anima and Z-Image.

Written from the class trees. One table serves both directions, so that they are inverses by
construction.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

TRANSFORMER = "model.diffusion_model."
ADAPTER = TRANSFORMER + "llm_adapter."
ENCODER = {"anima": "qwen3_06b", "zimage": "qwen3_4b"}  # ComfyUI's names of the text encoders
TEXT = {family: f"text_encoders.{name}.transformer.model." for family, name in ENCODER.items()}
TEXT_TABLE = "embed_tokens.weight"  # behind `TEXT`
T5_TABLE = "embed.weight"  # behind `ADAPTER`

# pieces of names, diffusers' first; none is a part of another one that is replaced before it
ANIMA = (
    ("time_embed.t_embedder.", "t_embedder.1."),
    ("time_embed.norm.", "t_embedding_norm."),
    ("patch_embed.proj.", "x_embedder.proj.1."),
    ("norm_out.linear_1.", "final_layer.adaln_modulation.1."),
    ("norm_out.linear_2.", "final_layer.adaln_modulation.2."),
    ("proj_out.", "final_layer.linear."),
    ("transformer_blocks.", "blocks."),
    (".norm1.linear_1.", ".adaln_modulation_self_attn.1."),
    (".norm1.linear_2.", ".adaln_modulation_self_attn.2."),
    (".norm2.linear_1.", ".adaln_modulation_cross_attn.1."),
    (".norm2.linear_2.", ".adaln_modulation_cross_attn.2."),
    (".norm3.linear_1.", ".adaln_modulation_mlp.1."),
    (".norm3.linear_2.", ".adaln_modulation_mlp.2."),
    (".attn1.", ".self_attn."),
    (".attn2.", ".cross_attn."),
    (".to_q.", ".q_proj."),
    (".to_k.", ".k_proj."),
    (".to_v.", ".v_proj."),
    (".to_out.0.", ".output_proj."),
    (".norm_q.", ".q_norm."),
    (".norm_k.", ".k_norm."),
    (".ff.net.0.proj.", ".mlp.layer1."),
    (".ff.net.2.", ".mlp.layer2."),
)
ZIMAGE = (
    ("all_x_embedder.2-1.", "x_embedder."),
    ("all_final_layer.2-1.", "final_layer."),
    (".attention.to_out.0.", ".attention.out."),
    (".attention.norm_q.", ".attention.q_norm."),
    (".attention.norm_k.", ".attention.k_norm."),
)
APART = tuple(f".attention.to_{part}." for part in "qkv")
FUSED = ".attention.qkv."
Table = tuple[tuple[str, str], ...]


def transformer_to_comfyui(weights: Mapping[str, Tensor], family: str) -> dict[str, Tensor]:
    """A transformer's weights under ComfyUI's names, without a prefix."""
    if family == "anima":
        return _renamed(weights, ANIMA)
    fused = dict(weights)
    for name in [name for name in weights if APART[0] in name]:
        parts = [fused.pop(name.replace(APART[0], part)) for part in APART]
        fused[name.replace(APART[0], FUSED)] = torch.cat(parts)
    return _renamed(fused, ZIMAGE)


def transformer_from_comfyui(weights: Mapping[str, Tensor], family: str) -> dict[str, Tensor]:
    """The inverse of `transformer_to_comfyui`."""
    table = ANIMA if family == "anima" else ZIMAGE
    renamed = _renamed(weights, tuple((b, a) for a, b in table))
    for name in [name for name in renamed if FUSED in name]:
        for part, rows in zip(APART, renamed.pop(name).chunk(3), strict=True):
            renamed[name.replace(FUSED, part)] = rows
    return renamed


def _renamed(weights: Mapping[str, Tensor], table: Table) -> dict[str, Tensor]:
    return {_name(name, table): tensor for name, tensor in weights.items()}


def _name(name: str, table: Table) -> str:
    for old, new in table:
        if old.startswith("."):
            name = name.replace(old, new)
        elif name.startswith(old):
            name = new + name.removeprefix(old)
    return name


def part_of(weights: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The weights behind a prefix, without it."""
    return {k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)}
