"""Canonical weight names -> the module names that LoRA files use.

kohya's naming is read by core ComfyUI, by A1111 and Forge, by kohya's tools and by diffusers. It
bases on diffusers' names for Stable Diffusion 1.x and 2.x and on the original ones for SDXL. Core
ComfyUI reads either for every UNet, so an unusual one (TinyWorld) gets the original names.
"""

from __future__ import annotations

import re
from collections.abc import Collection

# Fingerprints of UNets with four levels of two ResNet blocks, trained by tools on diffusers' names.
_SD1_OR_SD2 = re.compile(r"unet320 context(?:768|1024) clip_[lh]\d+ ")
# The parts of a text encoder that kohya's naming knows; core ComfyUI reads the rest by other names.
_ENCODER_LAYER = re.compile(
    r"text_model\.encoder\.layers\.\d+\.(?:self_attn\.(?:q|k|v|out)_proj|mlp\.fc[12])"
)

_RESNET = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}
_OUTER = {
    "time_embed.0": "time_embedding.linear_1",
    "time_embed.2": "time_embedding.linear_2",
    "input_blocks.0.0": "conv_in",
    "label_emb.0.0": "class_embedding.linear_1",
    "label_emb.0.2": "class_embedding.linear_2",
    "out.0": "conv_norm_out",
    "out.2": "conv_out",
}
_MIDDLE = {"0": "mid_block.resnets.0", "1": "mid_block.attentions.0", "2": "mid_block.resnets.1"}
_BLOCKS = 3  # input blocks and output blocks of a level


def stock_name(module: str, base: str, encoders: Collection[str]) -> str:
    """Name of a module in a LoRA file.

    Args:
        module: canonical, without ".weight" or ".bias".
        base: fingerprint of the base model.
        encoders: all text encoders of the base model.
    """
    room, _, path = module.partition(".")
    if room == "unet":
        path = diffusers_name(path) if _SD1_OR_SD2.match(base) else path
        return f"lora_unet_{path.replace('.', '_')}"
    if not _ENCODER_LAYER.fullmatch(path):
        return f"text_encoders.{room}.transformer.{path}"  # core ComfyUI only
    several = "clip_l" in encoders and "clip_g" in encoders
    prefix = {"clip_l": "lora_te1", "clip_g": "lora_te2"}[room] if several else "lora_te"
    return f"{prefix}_{path.replace('.', '_')}"


def diffusers_name(path: str) -> str:
    """diffusers' name of a module of an SD1 or SD2 UNet, from its original one."""
    if path in _OUTER:
        return _OUTER[path]
    arm, number, slot, *rest = path.split(".")
    inner = ".".join(rest)
    if arm == "middle_block":  # here the number is the slot
        inner = ".".join([slot, *rest])
        return f"{_MIDDLE[number]}.{_RESNET.get(inner, inner)}"
    level, layer = divmod(int(number) - (arm == "input_blocks"), _BLOCKS)
    block = f"{'down' if arm == 'input_blocks' else 'up'}_blocks.{level}"
    if inner == "op":
        return f"{block}.downsamplers.0.conv"
    if inner == "conv":
        return f"{block}.upsamplers.0.conv"
    if inner in _RESNET:
        return f"{block}.resnets.{layer}.{_RESNET[inner]}"
    return f"{block}.attentions.{layer}.{inner}"
