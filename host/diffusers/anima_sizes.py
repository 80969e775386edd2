"""Anima's networks in the layout of its published files: which is which, how large, and built."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from ...errors import ModelError
from ..families.anima import ADAPTER as IN_COMFYUI
from ..families.anima import ANIMA, QWEN, QWEN_CONFIG

TRANSFORMER, ADAPTER, TEXT, VAE = NETWORKS = (
    "transformer", "text_conditioner", "text_encoder", "vae",
)  # fmt: skip
TITLES = {
    TRANSFORMER: "the transformer",
    ADAPTER: "the text adapter (llm_adapter)",
    TEXT: "the text encoder (Qwen3 0.6B)",
    VAE: "the VAE (of Qwen-Image)",
}
Shapes = Mapping[str, tuple[int, ...]]

_STARTS = ("model.diffusion_model.", "diffusion_model.", "net.", "model.", "")
_TEXTS = ("", f"{QWEN}.", f"text_encoders.{QWEN}.", f"cond_stage_model.{QWEN}.")
_PREFIXES = {
    TRANSFORMER: _STARTS,
    ADAPTER: tuple(f"{start}{IN_COMFYUI}." for start in _STARTS),
    TEXT: (*(f"{s}{inner}model." for s in _TEXTS for inner in ("", "transformer.")), ""),
    VAE: ("vae.", "first_stage_model.", ""),
}
_MARKERS = {
    TRANSFORMER: ("blocks.0.adaln_modulation_cross_attn.1.weight",),
    ADAPTER: ("blocks.0.cross_attn.o_proj.weight",),
    TEXT: ("layers.0.post_attention_layernorm.weight",),
    VAE: ("decoder.middle.0.residual.0.gamma", "decoder.mid_block.resnets.0.norm1.gamma"),
}
_FOREIGN = {  # names that a network's class has no use for: counters of training, fixed tables
    TRANSFORMER: (f"{IN_COMFYUI}.", "pos_embedder.", "accum_"),
    TEXT: ("lm_head.",),
}


def part_in(part: str, names: Iterable[str]) -> str | None:
    """What the names of a network's weights begin with; None where it is not among them."""
    known = frozenset(names)
    prefixes = (p for p in _PREFIXES[part] for marker in _MARKERS[part] if p + marker in known)
    return next(prefixes, None)


def is_of(part: str, name: str) -> bool:
    """Whether a network reads a weight that lies among its own."""
    return not name.startswith(_FOREIGN.get(part, ())) and not name.endswith("_extra_state")


def width_of(part: str, place: Any) -> int:
    """What tells whether parts fit: channels of latents, or width of the language model's states.

    Args:
        place: a file's part (with `shapes`), or a folder in diffusers format.
    """
    if isinstance(place, Path):
        config = json.loads((place / "config.json").read_text(encoding="utf-8"))
        name = {
            TRANSFORMER: "out_channels", ADAPTER: "source_dim", TEXT: "hidden_size", VAE: "z_dim",
        }[part]  # fmt: skip
        return int(config.get(name) or config.get("latent_channels") or 0)
    shapes: Shapes = place.shapes
    if part == VAE:
        kernel = shapes.get("conv2.weight") or shapes["post_quant_conv.weight"]
        return kernel[0]
    name, axis, share = {
        TRANSFORMER: ("final_layer.linear.weight", 0, ANIMA.patch**2),
        ADAPTER: ("blocks.0.cross_attn.k_proj.weight", 1, 1),
        TEXT: ("embed_tokens.weight", 1, 1),
    }[part]
    return shapes[name][axis] // share


def network_of(part: str, weights: dict[str, Tensor], path: Path) -> Any:
    """A network of its file's weights, in the classes of diffusers and transformers.

    Raises:
        ModelError: the weights are not those of this network.
    """
    import diffusers
    from accelerate import init_empty_weights

    shapes = {name: tuple(weight.shape) for name, weight in weights.items()}
    library: Any = diffusers
    try:
        with init_empty_weights():
            if part == TRANSFORMER:
                network: Any = library.CosmosTransformer3DModel(**_transformer(shapes))
                weights = _renamed(weights)
            elif part == ADAPTER:
                network = library.AnimaTextConditioner(**_adapter(shapes))
            elif part == TEXT:
                network = _text_encoder(shapes)
            else:
                network, weights = _vae(shapes, weights)
        network.load_state_dict(weights, assign=True)
    except (KeyError, RuntimeError, ZeroDivisionError) as error:
        said = " ".join(str(error).split())[:300]
        raise ModelError(
            f"{path} does not have the weights of {TITLES[part]} as Anima's release does: {said}"
        ) from error
    except AttributeError as error:
        version = library.__version__
        raise ModelError(
            f"diffusers {version} does not know Anima yet; update it: {error}"
        ) from error
    return network


def _renamed(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A transformer's weights by diffusers' names."""
    renamed: dict[str, Tensor] = {}
    for name, weight in weights.items():
        path, _, attribute = name.rpartition(".")
        if ANIMA.part_of(path) is None:
            raise KeyError(f"it has {name}")
        renamed[f"{ANIMA.diffusers_name(path)}.{attribute}"] = weight
    return renamed


def _count(shapes: Shapes, blocks: str) -> int:
    return len({n.split(".")[1] for n in shapes if n.startswith(f"{blocks}.")})


def _transformer(shapes: Shapes) -> dict[str, Any]:
    width, columns = shapes["x_embedder.proj.1.weight"]
    (head,) = shapes["blocks.0.self_attn.q_norm.weight"]
    cells = ANIMA.patch**2
    return {
        "in_channels": columns // cells - 1,  # beside them, a channel of padding
        "out_channels": shapes["final_layer.linear.weight"][0] // cells,
        "num_attention_heads": width // head,
        "attention_head_dim": head,
        "num_layers": _count(shapes, "blocks"),
        "mlp_ratio": shapes["blocks.0.mlp.layer1.weight"][0] / width,
        "text_embed_dim": shapes["blocks.0.cross_attn.k_proj.weight"][1],
        "adaln_lora_dim": shapes["blocks.0.adaln_modulation_self_attn.1.weight"][0],
        "max_size": (128, 240, 240),
        "patch_size": (1, ANIMA.patch, ANIMA.patch),
        "rope_scale": (1.0, 4.0, 4.0),
        "concat_padding_mask": True,
        "extra_pos_embed_type": None,
    }


def _adapter(shapes: Shapes) -> dict[str, Any]:
    rows, target = shapes["embed.weight"]
    width = shapes["out_proj.weight"][1]
    (head,) = shapes["blocks.0.cross_attn.q_norm.weight"]
    return {
        "source_dim": shapes["blocks.0.cross_attn.k_proj.weight"][1],
        "target_dim": target,
        "model_dim": width,
        "num_layers": _count(shapes, "blocks"),
        "num_attention_heads": width // head,
        "mlp_ratio": shapes["blocks.0.mlp.0.weight"][0] / width,
        "target_vocab_size": rows,
        "use_self_attention": "blocks.0.self_attn.q_proj.weight" in shapes,
        "use_layer_norm": "blocks.0.norm_mlp.bias" in shapes,
    }


def _text_encoder(shapes: Shapes) -> Any:
    from transformers import Qwen3Config, Qwen3Model

    config: Any = Qwen3Config
    rows, width = shapes["embed_tokens.weight"]
    (head,) = shapes["layers.0.self_attn.q_norm.weight"]
    return Qwen3Model(
        config(
            vocab_size=rows,
            hidden_size=width,
            intermediate_size=shapes["layers.0.mlp.gate_proj.weight"][0],
            num_hidden_layers=_count(shapes, "layers"),
            num_attention_heads=shapes["layers.0.self_attn.q_proj.weight"][0] // head,
            num_key_value_heads=shapes["layers.0.self_attn.k_proj.weight"][0] // head,
            head_dim=head,
            **QWEN_CONFIG,
        )
    )


def _vae(shapes: Shapes, weights: dict[str, Tensor]) -> tuple[Any, dict[str, Tensor]]:
    import diffusers
    from diffusers.loaders.single_file_utils import convert_wan_vae_to_diffusers

    if "encoder.conv1.weight" in shapes:
        weights = convert_wan_vae_to_diffusers(dict(weights))
    base, channels = weights["encoder.conv_in.weight"].shape[0], weights["post_quant_conv.weight"]
    return diffusers.AutoencoderKLQwenImage(base_dim=base, z_dim=channels.shape[0]), weights
