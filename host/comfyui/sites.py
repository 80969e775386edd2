"""Sites of ComfyUI's networks; their modules have the original checkpoints' names."""

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
from ..families import transformer
from ..families.registry import SUPPORTED, family_of
from ..families.unet import sites_of
from ..ports import LayerSite, Place, ResNetSite, Rows, TransformerSite, UNetSites
from ..uncompiled import as_written
from .joint import tap


def network_sites(network: nn.Module) -> UNetSites:
    """Every hook place of a network.

    Raises:
        UnsupportedModelError: it belongs to no family that is known here.
    """
    family = family_of(network)
    if family is not None:
        return transformer.sites_of(family, network, in_diffusers=False, tap=tap)
    return _unet_sites(network)


def _unet_sites(unet: nn.Module) -> UNetSites:
    if not isinstance(unet, UNetModel):
        raise UnsupportedModelError(
            f"This MODEL is a {type(unet).__name__}; ConceptLoom works on {SUPPORTED}. Load one of "
            "those instead."
        )
    if any(isinstance(module, SpatialVideoTransformer) for module in unet.modules()):
        raise UnsupportedModelError(
            f"This MODEL makes video; ConceptLoom works on image models: {SUPPORTED}."
        )
    sites = sites_of(_blocks(unet), _resnet_layer)
    if not sites.transformers:
        raise UnsupportedModelError(
            "This MODEL has no cross-attention, so words cannot be localised in it; ConceptLoom "
            f"works on {SUPPORTED}."
        )
    return sites


def context_width_of(sites: UNetSites) -> int:
    """Width of the contexts that a network reads."""
    if sites.joint is not None:
        return sites.joint.context_width
    key: Any = sites.cross_attentions[0].key.module
    return key.in_features


def _resnet_layer(block: nn.Module, part: str) -> nn.Module | None:
    layer = block.get_submodule(part)
    return None if isinstance(layer, nn.Identity) else layer


def _blocks(unet: Any) -> Iterator[TransformerSite | ResNetSite | LayerSite]:
    """Each block in the order of a forward pass, and the convolutions and norms between them."""
    downsample = 1
    for arm, place, sequences in (
        ("input_blocks", Place.DOWN, unet.input_blocks),
        ("middle_block", Place.MID, [unet.middle_block] if unet.middle_block is not None else []),
        ("output_blocks", Place.UP, unet.output_blocks),
    ):
        for number, sequence in enumerate(map(as_written, sequences)):
            prefix = arm if place is Place.MID else f"{arm}.{number}"
            behind = _downsample_after(downsample, sequence)
            for index, module in enumerate(map(as_written, sequence)):
                name = f"{prefix}.{index}"
                if isinstance(module, (SpatialTransformer, ResBlock)):
                    yield _block(name, place, number, downsample, module)
                else:
                    yield from _outer_layer(name, behind, module)
            downsample = behind
    for index in (0, 2):
        yield LayerSite(f"out.{index}", Rows.GRID, 1, unet.out[index])


def _block(
    name: str, place: Place, number: int, downsample: int, module: Any
) -> TransformerSite | ResNetSite:
    if isinstance(module, SpatialTransformer):
        layers, width = module.transformer_blocks, _channels(module.proj_out)
        heads = layers[0].attn2.heads
        return TransformerSite(name, place, number, downsample, width, heads, len(layers), module)
    return ResNetSite(name, place, number, downsample, module.out_channels, module)


def _outer_layer(name: str, downsample: int, module: Any) -> Iterator[LayerSite]:
    """The first convolution, or that of a change of size; pooling has no weights."""
    part = {Downsample: "op", Upsample: "conv"}.get(type(module))
    layer = getattr(module, part, None) if part else module
    if isinstance(layer, nn.Module) and hasattr(layer, "weight"):
        yield LayerSite(f"{name}.{part}" if part else name, Rows.GRID, downsample, layer)


def _downsample_after(downsample: int, sequence: Iterable[nn.Module]) -> int:
    """Downsampling factor behind a block that may end in a change of size."""
    for module in sequence:
        halves = isinstance(module, Downsample)
        doubles = isinstance(module, Upsample)
        if isinstance(module, ResBlock) and module.updown:
            halves, doubles = (isinstance(module.h_upd, kind) for kind in (Downsample, Upsample))
        downsample = downsample * 2 if halves else downsample // 2 if doubles else downsample
    return downsample


def _channels(projection: Any) -> int:
    return getattr(projection, "out_channels", None) or projection.out_features
