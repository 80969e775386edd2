"""Sites and canonical weight names of diffusers' UNet."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn

from ...errors import UnsupportedModelError
from ..families.unet import sites_of
from ..families.unet_names import (
    DIFFUSERS_RESNET_PARTS,
    Block,
    BlockKind,
    Layout,
    blocks,
    original_prefixes,
    with_prefix,
)
from ..ports import LayerSite, ResNetSite, Rows, TransformerSite, UNetSites


def unet_sites(unet: Any) -> UNetSites:
    """Every hook place of a `UNet2DConditionModel`.

    Raises:
        UnsupportedModelError: the model is not a UNet with cross-attention in its middle.
    """
    sites = sites_of(_blocks(unet), _resnet_layer)
    if not sites.transformers:
        raise _unsupported(unet)
    return sites


def _blocks(unet: Any) -> Iterator[TransformerSite | ResNetSite | LayerSite]:
    layout = _layout(unet)
    yield LayerSite("input_blocks.0.0", Rows.GRID, 1, unet.conv_in)
    for block in blocks(layout):
        yield _block(block, unet.get_submodule(block.path))
    yield LayerSite("out.0", Rows.GRID, 1, unet.conv_norm_out)
    yield LayerSite("out.2", Rows.GRID, 1, unet.conv_out)


def _block(block: Block, module: Any) -> TransformerSite | ResNetSite | LayerSite:
    at = (block.name, block.place, block.number, block.downsample)
    if block.kind is BlockKind.TRANSFORMER:
        layers, width = module.transformer_blocks, module.proj_out.weight.shape[0]
        return TransformerSite(*at, width, layers[0].attn2.heads, len(layers), module)
    if block.kind is BlockKind.RESNET:
        return ResNetSite(*at, module.conv2.weight.shape[0], module)
    return LayerSite(block.name, Rows.GRID, block.downsample_behind, module)


def _resnet_layer(block: nn.Module, part: str) -> nn.Module | None:
    return getattr(block, DIFFUSERS_RESNET_PARTS[part])


def _layout(unet: Any) -> Layout:
    """What the names of this UNet depend on.

    Raises:
        UnsupportedModelError: it is built in another way.
    """
    try:
        downs = list(unet.down_blocks)
        attention = tuple(getattr(block, "attentions", None) is not None for block in downs)
        layout = Layout(attention, len(downs[0].resnets))
        for block in blocks(layout):
            module = unet.get_submodule(block.path)
            if block.kind is BlockKind.TRANSFORMER and not hasattr(module, "transformer_blocks"):
                raise _unsupported(unet)  # bare self-attention, as in an unconditional UNet
    except (AttributeError, TypeError, IndexError) as error:
        raise _unsupported(unet) from error
    return layout


def _unsupported(unet: Any) -> UnsupportedModelError:
    return UnsupportedModelError(
        f"{type(unet).__name__} is not supported: ConceptLoom needs a UNet with cross-attention in "
        "its middle block, as in Stable Diffusion 1.x, 2.x and SDXL (UNet2DConditionModel)."
    )


def canonical_unet_names(unet: nn.Module) -> dict[str, str]:
    """Canonical name (with "unet.") -> diffusers name, for every weight and bias."""
    prefixes = original_prefixes(_layout(unet))
    return {f"unet.{with_prefix(path, prefixes)}": path for path, _ in unet.named_parameters()}
