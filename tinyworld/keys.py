"""Weight names: diffusers <-> the original SD1 layout that ComfyUI and most tools read.

Written from the two class trees. One table per network serves both directions, so that
export and import are inverses by construction.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from ..host.families.unet_names import Layout, diffusers_prefixes, original_prefixes, with_prefix
from .model import ModelConfig

UNET, VAE = "model.diffusion_model.", "first_stage_model."
TEXT = "cond_stage_model.transformer.text_model."

VAE_ATTENTION = {
    "group_norm": "norm",
    "to_q": "q",
    "to_k": "k",
    "to_v": "v",
    "to_out.0": "proj_out",
}

Pairs = list[tuple[str, str]]  # (diffusers prefix, SD1 prefix)


def _layout(config: ModelConfig) -> Layout:
    return Layout(config.unet_attention, config.unet_layers)


def vae_pairs(config: ModelConfig) -> Pairs:
    """Prefix pairs of the autoencoder, diffusers first."""
    levels, n = len(config.vae_channels), config.vae_layers
    pairs: Pairs = [("quant_conv", "quant_conv"), ("post_quant_conv", "post_quant_conv")]

    def block(ours: str, theirs: str) -> Pairs:
        names = [(name, name) for name in ("norm1", "conv1", "norm2", "conv2")]
        names.append(("conv_shortcut", "nin_shortcut"))
        return [(f"{ours}.{a}", f"{theirs}.{b}") for a, b in names]

    for half in ("encoder", "decoder"):
        pairs += [(f"{half}.{name}", f"{half}.{name}") for name in ("conv_in", "conv_out")]
        pairs.append((f"{half}.conv_norm_out", f"{half}.norm_out"))
        for i in (0, 1):
            pairs += block(f"{half}.mid_block.resnets.{i}", f"{half}.mid.block_{i + 1}")
        for a, b in VAE_ATTENTION.items():
            pairs.append((f"{half}.mid_block.attentions.0.{a}", f"{half}.mid.attn_1.{b}"))
    for i in range(levels):
        for layer in range(n):
            ours = f"encoder.down_blocks.{i}.resnets.{layer}"
            pairs += block(ours, f"encoder.down.{i}.block.{layer}")
        ours = f"encoder.down_blocks.{i}.downsamplers.0.conv"
        pairs.append((ours, f"encoder.down.{i}.downsample.conv"))
        up = levels - 1 - i  # SD1 counts the decoder's levels from the picture
        for layer in range(n + 1):
            pairs += block(
                f"decoder.up_blocks.{i}.resnets.{layer}", f"decoder.up.{up}.block.{layer}"
            )
        ours = f"decoder.up_blocks.{i}.upsamplers.0.conv"
        pairs.append((ours, f"decoder.up.{up}.upsample.conv"))
    return pairs


def _rename(weights: dict[str, Tensor], prefixes: Mapping[str, str]) -> dict[str, Tensor]:
    return {with_prefix(key, prefixes): value for key, value in weights.items()}


def _swapped(pairs: Pairs) -> dict[str, str]:
    return {b: a for a, b in pairs}


def unet_to_sd1(weights: dict[str, Tensor], config: ModelConfig) -> dict[str, Tensor]:
    """diffusers UNet weights under SD1 names (with SD1's prefix)."""
    return {UNET + k: v for k, v in _rename(weights, original_prefixes(_layout(config))).items()}


def unet_from_sd1(weights: dict[str, Tensor], config: ModelConfig) -> dict[str, Tensor]:
    """The inverse of `unet_to_sd1`; other networks' keys are left out."""
    return _rename(_part(weights, UNET), diffusers_prefixes(_layout(config)))


def vae_to_sd1(weights: dict[str, Tensor], config: ModelConfig) -> dict[str, Tensor]:
    """diffusers VAE weights under SD1 names; attention's linears become 1x1 convolutions."""
    renamed = _rename(weights, dict(vae_pairs(config)))
    for key, value in renamed.items():
        if ".attn_1." in key and value.ndim == 2:
            renamed[key] = value[:, :, None, None]
    return {VAE + k: v for k, v in renamed.items()}


def vae_from_sd1(weights: dict[str, Tensor], config: ModelConfig) -> dict[str, Tensor]:
    """The inverse of `vae_to_sd1`."""
    renamed = _rename(_part(weights, VAE), _swapped(vae_pairs(config)))
    for key, value in renamed.items():
        if ".attentions." in key and value.ndim == 4:
            renamed[key] = value[:, :, 0, 0]
    return renamed


def text_to_sd1(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """transformers CLIPTextModel weights under SD1 names.

    transformers 5 dropped the `text_model.` level of its keys; both forms are read.
    """
    return {
        TEXT + k.removeprefix("text_model."): v
        for k, v in weights.items()
        if not k.endswith("position_ids")
    }


def text_from_sd1(weights: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The inverse of `text_to_sd1`; `prefix` is "" or "text_model." as the class has it."""
    return {prefix + k: v for k, v in _part(weights, TEXT).items()}


def _part(weights: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)}
