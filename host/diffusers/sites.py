"""Sites and canonical weight names of diffusers' UNet."""

from __future__ import annotations

from typing import Any

from torch import nn

from ...errors import UnsupportedModelError
from ..families.unet_names import Kind, Layout, blocks, original_prefixes, with_prefix
from ..ports import ResNetSite, TransformerSite, UNetSites


def unet_sites(unet: Any) -> UNetSites:
    """Every hook place of a `UNet2DConditionModel`.

    Raises:
        UnsupportedModelError: the model is not a UNet with cross-attention in its middle.
    """
    transformers: list[TransformerSite] = []
    resnets: list[ResNetSite] = []
    for block in blocks(_layout(unet)):
        module: Any = unet.get_submodule(block.path)
        at = (block.name, block.place, block.number, block.level)
        if block.kind is Kind.TRANSFORMER:
            layers = module.transformer_blocks
            width = module.proj_out.weight.shape[0]
            transformers.append(
                TransformerSite(*at, width, layers[0].attn2.heads, len(layers), module)
            )
        elif block.kind is Kind.RESNET:
            resnets.append(ResNetSite(*at, module.conv2.weight.shape[0], module, module.conv2))
    if not transformers:
        raise _unsupported(unet)
    return UNetSites(tuple(transformers), tuple(resnets))


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
            if block.kind is Kind.TRANSFORMER and not hasattr(module, "transformer_blocks"):
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
