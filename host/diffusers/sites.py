"""Where things stand in diffusers' UNet, and what the original checkpoints call them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import nn

from ...errors import UnsupportedModelError
from ..ports import Place, ResNetSite, TransformerSite, UNetSites

# Parts of a ResNet block; transformer blocks bear the same names in both worlds.
RESNET_PARTS = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
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


@dataclass(frozen=True, slots=True)
class _Block:
    """A ResNet, transformer or resampling block in the order of a forward pass."""

    path: str  # diffusers
    name: str  # canonical
    place: Place
    number: int
    level: int
    module: Any


def _blocks(unet: Any) -> Iterator[_Block]:
    number, level = 1, 1
    for i, block in enumerate(unet.down_blocks):
        attentions = getattr(block, "attentions", None)
        for j, resnet in enumerate(block.resnets):
            path, name = f"down_blocks.{i}", f"input_blocks.{number}"
            at = (Place.DOWN, number, level)
            yield _Block(f"{path}.resnets.{j}", f"{name}.0", *at, resnet)
            if attentions is not None:
                yield _Block(f"{path}.attentions.{j}", f"{name}.1", *at, attentions[j])
            number += 1
        if block.downsamplers:
            path, name = f"down_blocks.{i}.downsamplers.0.conv", f"input_blocks.{number}.0.op"
            yield _Block(path, name, Place.DOWN, number, level, block.downsamplers[0].conv)
            number, level = number + 1, level * 2
    mid, at = unet.mid_block, (Place.MID, 0, level)
    yield _Block("mid_block.resnets.0", "middle_block.0", *at, mid.resnets[0])
    yield _Block("mid_block.attentions.0", "middle_block.1", *at, mid.attentions[0])
    yield _Block("mid_block.resnets.1", "middle_block.2", *at, mid.resnets[1])
    number = 0
    for i, block in enumerate(unet.up_blocks):
        attentions = getattr(block, "attentions", None)
        for j, resnet in enumerate(block.resnets):
            path, name = f"up_blocks.{i}", f"output_blocks.{number}"
            at = (Place.UP, number, level)
            yield _Block(f"{path}.resnets.{j}", f"{name}.0", *at, resnet)
            if attentions is not None:
                yield _Block(f"{path}.attentions.{j}", f"{name}.1", *at, attentions[j])
            number += 1
        if block.upsamplers:
            slot = 1 if attentions is None else 2
            path = f"up_blocks.{i}.upsamplers.0.conv"
            name = f"output_blocks.{number - 1}.{slot}.conv"
            yield _Block(path, name, Place.UP, number - 1, level, block.upsamplers[0].conv)
            level //= 2


def unet_sites(unet: Any) -> UNetSites:
    """Every hook place of a `UNet2DConditionModel`.

    Raises:
        UnsupportedModelError: the model is not a UNet with cross-attention in its middle.
    """
    transformers: list[TransformerSite] = []
    resnets: list[ResNetSite] = []
    for block in _checked_blocks(unet):
        at = (block.name, block.place, block.number, block.level)
        if hasattr(block.module, "transformer_blocks"):
            layers = block.module.transformer_blocks
            width = block.module.proj_out.weight.shape[0]
            site = TransformerSite(*at, width, layers[0].attn2.heads, len(layers), block.module)
            transformers.append(site)
        elif hasattr(block.module, "conv2"):
            width = block.module.conv2.weight.shape[0]
            resnets.append(ResNetSite(*at, width, block.module.conv2))
    if not transformers:
        raise _unsupported(unet)
    return UNetSites(tuple(transformers), tuple(resnets))


def _checked_blocks(unet: Any) -> list[_Block]:
    try:
        return list(_blocks(unet))
    except (AttributeError, TypeError, IndexError) as error:
        raise _unsupported(unet) from error


def _unsupported(unet: Any) -> UnsupportedModelError:
    return UnsupportedModelError(
        f"{type(unet).__name__} is not supported: ConceptLoom needs a UNet with cross-attention in "
        "its middle block, as in Stable Diffusion 1.x, 2.x and SDXL (UNet2DConditionModel)."
    )


def canonical_unet_names(unet: nn.Module) -> dict[str, str]:
    """Canonical name (with "unet.") -> diffusers name, for every weight and bias."""
    prefixes = dict(OUTER_PARTS)
    for block in _checked_blocks(unet):
        if hasattr(block.module, "conv2"):
            for part, original in RESNET_PARTS.items():
                prefixes[f"{block.path}.{part}"] = f"{block.name}.{original}"
        else:
            prefixes[block.path] = block.name
    names = {}
    for path, _ in unet.named_parameters():
        parts = path.split(".")
        cut = next(n for n in range(len(parts) - 1, 0, -1) if ".".join(parts[:n]) in prefixes)
        names[".".join(["unet", prefixes[".".join(parts[:cut])], *parts[cut:]])] = path
    return names
