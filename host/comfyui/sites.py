"""Where things stand in ComfyUI's UNet, whose modules bear the original checkpoint's names."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from comfy.ldm.modules.attention import SpatialTransformer, SpatialVideoTransformer
from comfy.ldm.modules.diffusionmodules.openaimodel import (
    Downsample,
    ResBlock,
    UNetModel,
    Upsample,
)
from torch import nn

from ...errors import UnsupportedModelError
from ..ports import Place, ResNetSite, TransformerSite, UNetSites
from ..uncompiled import as_written

SUPPORTED = "Stable Diffusion 1.x, 2.x and XL and what was trained from them"


def unet_sites(unet: nn.Module) -> UNetSites:
    """Every hook place of a `UNetModel`.

    Raises:
        UnsupportedModelError: the model is not a UNet for pictures with cross-attention.
    """
    if not isinstance(unet, UNetModel):
        raise UnsupportedModelError(
            f"This MODEL is a {type(unet).__name__}; ConceptLoom works inside of UNets with "
            f"cross-attention: {SUPPORTED}. Load one of those instead."
        )
    if any(isinstance(module, SpatialVideoTransformer) for module in unet.modules()):
        raise UnsupportedModelError(
            f"This MODEL makes video; ConceptLoom works on models for pictures: {SUPPORTED}."
        )
    transformers: list[TransformerSite] = []
    resnets: list[ResNetSite] = []
    for name, place, number, level, module in _blocks(unet):
        if isinstance(module, SpatialTransformer):
            layers = module.transformer_blocks
            heads, width = layers[0].attn2.heads, _channels(module.proj_out)
            transformers.append(
                TransformerSite(name, place, number, level, width, heads, len(layers), module)
            )
        else:
            width, last = module.out_channels, module.out_layers
            resnets.append(ResNetSite(name, place, number, level, width, module, last))
    if not transformers:
        raise UnsupportedModelError(
            "This MODEL has no cross-attention, so no word can be found in it; "
            f"ConceptLoom works on {SUPPORTED}."
        )
    return UNetSites(tuple(transformers), tuple(resnets))


def _blocks(unet: Any) -> Iterator[tuple[str, Place, int, int, Any]]:
    """Name, place, number, level and module of each block in the order of a forward pass."""
    level = 1
    for arm, place, sequences in (
        ("input_blocks", Place.DOWN, unet.input_blocks),
        ("middle_block", Place.MID, [unet.middle_block] if unet.middle_block is not None else []),
        ("output_blocks", Place.UP, unet.output_blocks),
    ):
        for number, sequence in enumerate(map(as_written, sequences)):
            prefix = arm if place is Place.MID else f"{arm}.{number}"
            for index, module in enumerate(map(as_written, sequence)):
                if isinstance(module, (SpatialTransformer, ResBlock)):
                    yield f"{prefix}.{index}", place, number, level, module
            level = _level_after(level, sequence)


def _level_after(level: int, sequence: Iterable[nn.Module]) -> int:
    """Downsampling factor behind a block that may end in a change of size."""
    for module in sequence:
        halves = isinstance(module, Downsample)
        doubles = isinstance(module, Upsample)
        if isinstance(module, ResBlock) and module.updown:
            halves, doubles = (isinstance(module.h_upd, kind) for kind in (Downsample, Upsample))
        level = level * 2 if halves else level // 2 if doubles else level
    return level


def _channels(projection: Any) -> int:
    return getattr(projection, "out_channels", None) or projection.out_features
