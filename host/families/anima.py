"""Anima, and Cosmos-Predict2 (text to image), on whose transformer it stands.

Each block reads the picture (self-attention), the text (cross-attention) and each position by
itself (MLP). Anima's contexts are made by an adapter: one row for each T5 token of the prompt,
which looks at what Qwen3 says; then zeros up to 512 rows, on which most of the attention rests.

In self-attention ComfyUI computes norm and position embedding in one kernel, so hooks see neither
its q nor its k afterwards; its layers are sites, the attention is none.
"""

from __future__ import annotations

from typing import Any

from ..conditioning import TextLayout
from ..sites import AttentionKind, Feature, Role, Rows
from .family import AttentionPart, Family, Part

QWEN = "qwen3_06b"  # the language model
T5 = "anima_t5"  # the adapter's own vectors of T5's tokens
ADAPTER = "llm_adapter"
T5_XXL = "t5xxl"  # Cosmos-Predict2's text encoder, the old T5-XXL
ROWS = 512  # of a context, at least
END, PAD = 1, 0  # T5's ids behind a prompt
# What transformers' Qwen3Config wants beside the sizes.
QWEN_CONFIG: dict[str, Any] = {
    "rms_norm_eps": 1e-6,
    "rope_theta": 1e6,  # where transformers has no `rope_parameters` yet
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
    "tie_word_embeddings": True,
    "use_cache": False,
    "pad_token_id": None,
}
QWEN_PAD = 151643  # what an empty prompt is for Qwen
SPARE = 32100  # first of T5's ids that no text has
LAYOUT = TextLayout(fillers=frozenset({END, PAD}), padded=True)

_OWN = (Role.PROJ_OUT, Role.LINEAR)  # layers of self-attention
_TEXT = (Role.ATTENTION, Role.PROJ_OUT, Role.LINEAR)
_KV = (Role.CROSS_KV, Role.ATTENTION, Role.LINEAR)
_MLP = (Role.MLP, Role.PROJ_OUT, Role.LINEAR)
_GRID = Rows.GRID
_PARTS: dict[str, Part] = {
    "adaln_modulation_self_attn.1": Part("norm1.linear_1"),
    "adaln_modulation_self_attn.2": Part("norm1.linear_2"),
    "self_attn.q_proj": Part("attn1.to_q", _OWN, _GRID),
    "self_attn.q_norm": Part("attn1.norm_q"),
    "self_attn.k_proj": Part("attn1.to_k", _OWN, _GRID),
    "self_attn.k_norm": Part("attn1.norm_k"),
    "self_attn.v_proj": Part("attn1.to_v", _OWN, _GRID),
    "self_attn.output_proj": Part("attn1.to_out.0", _OWN, _GRID),
    "adaln_modulation_cross_attn.1": Part("norm2.linear_1"),
    "adaln_modulation_cross_attn.2": Part("norm2.linear_2"),
    "cross_attn.q_proj": Part("attn2.to_q", _TEXT, _GRID),
    "cross_attn.q_norm": Part("attn2.norm_q"),
    "cross_attn.k_proj": Part("attn2.to_k", _KV, Rows.TEXT),
    "cross_attn.k_norm": Part("attn2.norm_k"),
    "cross_attn.v_proj": Part("attn2.to_v", _KV, Rows.TEXT),
    "cross_attn.output_proj": Part("attn2.to_out.0", (*_TEXT, Role.ATTENTION_OUT), _GRID),
    "adaln_modulation_mlp.1": Part("norm3.linear_1"),
    "adaln_modulation_mlp.2": Part("norm3.linear_2"),
    "mlp.layer1": Part("ff.net.0.proj", _MLP, _GRID),
    "mlp.layer2": Part("ff.net.2", _MLP, _GRID),
}
_OUTER: dict[str, Part] = {
    "x_embedder.proj.1": Part("patch_embed.proj", (), _GRID),
    "t_embedder.1.linear_1": Part("time_embed.t_embedder.linear_1"),
    "t_embedder.1.linear_2": Part("time_embed.t_embedder.linear_2"),
    "t_embedding_norm": Part("time_embed.norm"),
    "final_layer.adaln_modulation.1": Part("norm_out.linear_1"),
    "final_layer.adaln_modulation.2": Part("norm_out.linear_2"),
    "final_layer.linear": Part("proj_out", (), _GRID),
}
_CROSS = AttentionPart(
    AttentionKind.CROSS,
    "cross_attn.q_proj",
    "cross_attn.k_proj",
    "cross_attn.v_proj",
    "cross_attn.output_proj",
    "cross_attn.q_norm",
    "cross_attn.k_norm",
)


def _family(name: str, title: str, kind: str, text: TextLayout, tables: dict[str, str]) -> Family:
    return Family(
        name=name,
        title=title,
        classes=(kind,),
        blocks=("blocks", "transformer_blocks"),
        parts=_PARTS,
        outer=_OUTER,
        attentions={"cross_attn": _CROSS},
        heads=("n_heads", "heads"),
        features={
            Feature.QUERY: "self_attn.q_proj",
            Feature.KEY: "self_attn.k_proj",
            Feature.VALUE: "self_attn.v_proj",
        },
        text=text,
        finders=(13 / 28, 16 / 28),  # of 28 blocks, those where nouns are located best
        located_at=(0.65, 0.85),
        token_tables=tables,
    )


ANIMA = _family(
    "anima",
    "Anima",
    "Anima",
    LAYOUT,
    {QWEN: f"{QWEN}.model.embed_tokens.weight", T5: f"transformer.{ADAPTER}.embed.weight"},
)
# Contexts are T5-XXL's own; a prompt is followed by its end token and zeros.
COSMOS = _family(
    "cosmos2", "Cosmos-Predict2", "MiniTrainDIT", LAYOUT, {T5_XXL: f"{T5_XXL}.shared.weight"}
)
