"""Names of a Stable Diffusion UNet's parts: diffusers' and those of the original checkpoints.

The original names are the canonical ones of `host.ports`; LoRA files of the kohya kind use either.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from functools import cache

from ..ports import Place

# Parts of a ResNet block; transformer blocks have the same names in both.
RESNET_PARTS = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
DIFFUSERS_RESNET_PARTS = {original: theirs for theirs, original in RESNET_PARTS.items()}
OUTER_PARTS = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "class_embedding.linear_1": "label_emb.0.0",
    "class_embedding.linear_2": "label_emb.0.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
# Fingerprints of UNets whose LoRA files use diffusers' names; SDXL's use the original ones.
_SD1_OR_SD2 = re.compile(r"unet320 context(?:768|1024) clip_[lh]\d+ ")
# The parts of a text encoder that kohya's naming knows; core ComfyUI reads the rest by other names.
_ENCODER_LAYER = re.compile(
    r"text_model\.encoder\.layers\.\d+\.(?:self_attn\.(?:q|k|v|out)_proj|mlp\.fc[12])"
)


class BlockKind(str, Enum):
    """What a block of a UNet is."""

    RESNET = "resnet"
    TRANSFORMER = "transformer"
    RESAMPLER = "resampler"


@dataclass(frozen=True, slots=True)
class Layout:
    """The sizes that the names depend on, from the finest level to the coarsest."""

    attention: tuple[bool, ...]  # has the level transformer blocks on the way down?
    resnets: int = 2  # on the way down, per level; one more on the way up


SD1 = Layout((True, True, True, False))  # SD2's too


@dataclass(frozen=True, slots=True)
class Block:
    """A block in the order of a forward pass."""

    path: str  # diffusers
    name: str  # original
    kind: BlockKind
    place: Place
    number: int  # within its arm, as in the original name
    downsample: int  # downsampling against the latent: 1, 2, 4, 8

    @property
    def downsample_behind(self) -> int:
        """That of what comes out of it."""
        if self.kind is not BlockKind.RESAMPLER:
            return self.downsample
        return self.downsample * 2 if self.place is Place.DOWN else self.downsample // 2


def blocks(layout: Layout) -> Iterator[Block]:
    """Every block of a UNet of this layout."""
    levels, number = len(layout.attention), 1
    for i, has_attention in enumerate(layout.attention):
        for j in range(layout.resnets):
            at = (Place.DOWN, number, 2**i)
            yield from _pair(f"down_blocks.{i}", f"input_blocks.{number}", j, has_attention, at)
            number += 1
        if i < levels - 1:
            path, name = f"down_blocks.{i}.downsamplers.0.conv", f"input_blocks.{number}.0.op"
            yield Block(path, name, BlockKind.RESAMPLER, Place.DOWN, number, 2**i)
            number += 1
    at = (Place.MID, 0, 2 ** (levels - 1))
    yield Block("mid_block.resnets.0", "middle_block.0", BlockKind.RESNET, *at)
    yield Block("mid_block.attentions.0", "middle_block.1", BlockKind.TRANSFORMER, *at)
    yield Block("mid_block.resnets.1", "middle_block.2", BlockKind.RESNET, *at)
    number = 0
    for i, has_attention in enumerate(reversed(layout.attention)):
        downsample = 2 ** (levels - 1 - i)
        for j in range(layout.resnets + 1):
            at = (Place.UP, number, downsample)
            yield from _pair(f"up_blocks.{i}", f"output_blocks.{number}", j, has_attention, at)
            number += 1
        if i < levels - 1:
            slot = 2 if has_attention else 1
            path = f"up_blocks.{i}.upsamplers.0.conv"
            name = f"output_blocks.{number - 1}.{slot}.conv"
            yield Block(path, name, BlockKind.RESAMPLER, Place.UP, number - 1, downsample)


def _pair(
    path: str, name: str, index: int, has_attention: bool, at: tuple[Place, int, int]
) -> Iterator[Block]:
    """A ResNet block, and the transformer block behind it where the level has one."""
    yield Block(f"{path}.resnets.{index}", f"{name}.0", BlockKind.RESNET, *at)
    if has_attention:
        yield Block(f"{path}.attentions.{index}", f"{name}.1", BlockKind.TRANSFORMER, *at)


@cache
def original_prefixes(layout: Layout) -> Mapping[str, str]:
    """diffusers' prefix of every part of a UNet -> the original one."""
    prefixes = dict(OUTER_PARTS)
    for block in blocks(layout):
        parts = RESNET_PARTS.items() if block.kind is BlockKind.RESNET else [("", "")]
        for part, original in parts:
            dot = "." if part else ""
            prefixes[f"{block.path}{dot}{part}"] = f"{block.name}{dot}{original}"
    return prefixes


@cache
def diffusers_prefixes(layout: Layout) -> Mapping[str, str]:
    """The inverse of `original_prefixes`. SDXL's embedding of sizes is left under one name."""
    return {original: path for path, original in original_prefixes(layout).items()}


def with_prefix(name: str, prefixes: Mapping[str, str]) -> str:
    """A name with its longest known prefix replaced.

    Raises:
        KeyError: no prefix of it is known.
    """
    parts = name.split(".")
    for cut in range(len(parts), 0, -1):
        prefix = prefixes.get(".".join(parts[:cut]))
        if prefix is not None:
            return ".".join([prefix, *parts[cut:]])
    raise KeyError(f"{name!r} has no other name")


def lora_name(module: str, base: str, encoders: Collection[str]) -> str:
    """Name of a module in a kohya LoRA file, as core ComfyUI, A1111, Forge and diffusers read it.

    kohya's tools name modules of SD 1.x and 2.x as diffusers does and those of SDXL as the original
    checkpoint. Core ComfyUI reads either for every UNet, so another one (TinyWorld) gets the
    original names.

    Args:
        module: canonical, without ".weight" or ".bias".
        base: fingerprint of the base model.
        encoders: all text encoders of the base model.
    """
    network, _, path = module.partition(".")
    if network == "unet":
        path = with_prefix(path, diffusers_prefixes(SD1)) if _SD1_OR_SD2.match(base) else path
        return f"lora_unet_{path.replace('.', '_')}"
    if not _ENCODER_LAYER.fullmatch(path):
        return f"text_encoders.{network}.transformer.{path}"  # core ComfyUI only
    several = "clip_l" in encoders and "clip_g" in encoders
    prefix = {"clip_l": "lora_te1", "clip_g": "lora_te2"}[network] if several else "lora_te"
    return f"{prefix}_{path.replace('.', '_')}"
