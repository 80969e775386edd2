"""Z-Image and Krea 2: text and picture are one sequence, and attend to each other in every block.

Canonical names are ComfyUI's, but q, k and v of Z-Image are apart, as LoRA files have them; ComfyUI
keeps them in one layer.

| | Z-Image | Krea 2 |
|---|---|---|
| sequence | [text, picture], in diffusers [picture, text] | [text, picture] |
| filled up | each to a multiple of 32 | no |
| text alone | `cap_embedder`, `context_refiner` | `txtfusion`, `txtmlp` |
| picture alone | `x_embedder`, `noise_refiner` | `first` |
| beside the projection of an attention | a norm behind it | a gate before it |
"""

from __future__ import annotations

from typing import Any

from ..conditioning import TextLayout
from ..sites import AttentionKind, Feature, Role, Rows
from ..token_spans import TokenOrder
from .family import AttentionPart, BlockList, Family, JointPlan, Part

Z_IMAGE_QWEN, KREA_2_QWEN = "qwen3_4b", "qwen3vl_4b"
# Hidden states of the language model that make a row of a context.
TAPS = {"z_image": (-2,), "krea2": tuple(range(2, 36, 3))}
FILLED = 32  # tokens of Z-Image's text and picture come in multiples of it
_ATTENTION = (Role.ATTENTION, Role.LINEAR)
_OUT = (Role.ATTENTION, Role.ATTENTION_OUT, Role.PROJ_OUT, Role.LINEAR)
_MLP = (Role.MLP, Role.LINEAR)
_LINEAR = (Role.LINEAR,)


def _z_image_parts(rows: Rows, out: tuple[Role, ...] = _LINEAR) -> dict[str, Part]:
    is_joint = out is not _LINEAR
    attention, mlp = (_ATTENTION, _MLP) if is_joint else (_LINEAR, _LINEAR)
    return {
        "attention.to_q": Part("attention.to_q", attention, rows),
        "attention.to_k": Part("attention.to_k", attention, rows),
        "attention.to_v": Part("attention.to_v", attention, rows),
        "attention.out": Part("attention.to_out.0", out, rows),
        "feed_forward.w1": Part("feed_forward.w1", mlp, rows),
        "feed_forward.w2": Part("feed_forward.w2", mlp, rows),
        "feed_forward.w3": Part("feed_forward.w3", mlp, rows),
    }


def _krea_2_parts(rows: Rows, out: tuple[Role, ...] = _LINEAR) -> dict[str, Part]:
    is_joint = out is not _LINEAR
    attention, mlp = (_ATTENTION, _MLP) if is_joint else (_LINEAR, _LINEAR)
    return {
        "attn.wq": Part("attn.to_q", attention, rows),
        "attn.wk": Part("attn.to_k", attention, rows),
        "attn.wv": Part("attn.to_v", attention, rows),
        "attn.gate": Part("attn.to_gate", attention, rows),
        "attn.wo": Part("attn.to_out.0", out, rows),
        "mlp.gate": Part("ff.gate", mlp, rows),
        "mlp.up": Part("ff.up", mlp, rows),
        "mlp.down": Part("ff.down", mlp, rows),
    }


_MODULATION = {"adaLN_modulation.0": Part("adaLN_modulation.0")}


def _is_z_image(network: Any) -> bool:
    """Lumina 2 and pixel models are of the same class; only Z-Image fills up tokens of latents."""
    in_comfy = getattr(network, "pad_tokens_multiple", None) == FILLED and network.patch_size == 2
    return in_comfy or hasattr(network, "all_x_embedder")


Z_IMAGE = Family(
    name="z_image",
    title="Z-Image",
    base="Z-Image (not Turbo)",
    classes=("NextDiT", "ZImageTransformer2DModel"),
    accepts=_is_z_image,
    blocks=("layers", "layers"),
    parts=_z_image_parts(Rows.JOINT, _OUT) | _MODULATION,
    lists={
        "noise_refiner": BlockList("noise_refiner", _z_image_parts(Rows.JOINT) | _MODULATION),
        "context_refiner": BlockList("context_refiner", _z_image_parts(Rows.TEXT)),
    },
    outer={
        "x_embedder": Part("all_x_embedder.2-1", (), Rows.JOINT),
        "cap_embedder.1": Part("cap_embedder.1", _LINEAR, Rows.TEXT),
        "t_embedder.mlp.0": Part("t_embedder.mlp.0"),
        "t_embedder.mlp.2": Part("t_embedder.mlp.2"),
        "final_layer.adaLN_modulation.1": Part("all_final_layer.2-1.adaLN_modulation.1"),
        "final_layer.linear": Part("all_final_layer.2-1.linear", (), Rows.JOINT),
    },
    fused={"attention.qkv": ("attention.to_q", "attention.to_k", "attention.to_v")},
    attentions={
        "attention": AttentionPart(
            AttentionKind.JOINT,
            "attention.to_q",
            "attention.to_k",
            "attention.to_v",
            "attention.out",
        )
    },
    heads=("n_local_heads", "heads"),
    features={Feature.KEY: "attention.to_k", Feature.VALUE: "attention.to_v"},
    text=TextLayout(before=3, by_letters=True),
    finders=(0.5, 0.63),
    kept_by_block=34,
    token_tables={Z_IMAGE_QWEN: f"{Z_IMAGE_QWEN}.model.embed_tokens.weight"},
    joint=JointPlan(
        order=(TokenOrder(True, FILLED), TokenOrder(False, FILLED)),
        text_stages=(
            (("cap_embedder", "cap_embedder"), ("context_refiner.0", "context_refiner.-1")),
            (("cap_embedder", "cap_embedder"), ("context_refiner.0", "context_refiner.-1")),
        ),
        rope_dim=(1, 1),
        mask_at=(1, 1),
        context=("cap_embedder.1",),
        filler="cap_pad_token",
    ),
)

KREA_2 = Family(
    name="krea2",
    title="Krea 2",
    base="Krea 2 Raw (not Turbo)",
    classes=("SingleStreamDiT", "Krea2Transformer2DModel"),
    blocks=("blocks", "transformer_blocks"),
    parts=_krea_2_parts(Rows.JOINT, _OUT),
    lists={
        f"txtfusion.{name}": BlockList(f"text_fusion.{name}", _krea_2_parts(Rows.TEXT))
        for name in ("layerwise_blocks", "refiner_blocks")
    },
    outer={
        "first": Part("img_in", (), Rows.JOINT),
        "txtfusion.projector": Part("text_fusion.projector", _LINEAR, Rows.TEXT),
        "txtmlp.1": Part("txt_in.linear_1", _LINEAR, Rows.TEXT),
        "txtmlp.3": Part("txt_in.linear_2", _LINEAR, Rows.TEXT),
        "tmlp.0": Part("time_embed.linear_1"),
        "tmlp.2": Part("time_embed.linear_2"),
        "tproj.1": Part("time_mod_proj"),
        "last.linear": Part("final_layer.linear", (), Rows.JOINT),
    },
    attentions={
        "attn": AttentionPart(AttentionKind.JOINT, "attn.wq", "attn.wk", "attn.wv", "attn.wo")
    },
    heads=("heads", "num_heads"),
    features={Feature.KEY: "attn.wk", Feature.VALUE: "attn.wv"},
    text=TextLayout(by_letters=True),
    finders=(0.25, 0.39),
    kept_by_block=29,
    token_tables={KREA_2_QWEN: f"{KREA_2_QWEN}.model.embed_tokens.weight"},
    joint=JointPlan(
        order=(TokenOrder(), TokenOrder()),
        text_stages=((("txtfusion", "txtmlp"),), (("text_fusion", "txt_in"),)),
        rope_dim=(2, 0),
        mask_at=(3, 3),
        context=("txtfusion.projector", "txtfusion.layerwise_blocks.0.attn.wq"),
    ),
)
