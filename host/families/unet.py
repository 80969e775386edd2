"""What a Stable Diffusion UNet is made of: its layers, their roles, and what their outputs hold.

Names are those of the original checkpoints. `unet_names` has diffusers' beside them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from torch import nn

from ..ports import (
    AttentionKind,
    AttentionSite,
    Feature,
    FeatureSite,
    LayerSite,
    ResNetSite,
    Role,
    Rows,
    TransformerSite,
    UNetSites,
)
from . import clip
from .unet_names import RESNET_PARTS

_KV = (Role.CROSS_KV, Role.ATTENTION, Role.LINEAR)
# Parts of a layer of a transformer block -> their roles.
LAYER_PARTS: dict[str, tuple[Role, ...]] = {
    "norm1": (),
    "attn1.to_q": (Role.LINEAR,),
    "attn1.to_k": (Role.LINEAR,),
    "attn1.to_v": (Role.LINEAR,),
    "attn1.to_out.0": (Role.LINEAR,),
    "norm2": (),
    "attn2.to_q": (Role.ATTENTION, Role.LINEAR),
    "attn2.to_k": _KV,
    "attn2.to_v": _KV,
    "attn2.to_out.0": (Role.ATTENTION, Role.ATTENTION_OUT, Role.LINEAR),
    "norm3": (),
    "ff.net.0.proj": (Role.MLP, Role.LINEAR),
    "ff.net.2": (Role.MLP, Role.LINEAR),
}
# Parts of the block around them.
FIRST_PARTS: dict[str, tuple[Role, ...]] = {"norm": (), "proj_in": (Role.LINEAR,)}
LAST_PARTS: dict[str, tuple[Role, ...]] = {"proj_out": (Role.PROJ_OUT, Role.LINEAR)}
RESIDUAL_PART = "out_layers.3"  # the layer of a ResNet block whose output is its residual
ATTENTIONS = {"attn1": AttentionKind.SELF, "attn2": AttentionKind.CROSS}

NETWORK = "unet"  # what canonical names of its weights begin with; others' are text encoders'

# A block and the original name of a part of it -> that layer, or None.
Find = Callable[[nn.Module, str], nn.Module | None]


def sites_of(
    blocks: Iterable[TransformerSite | ResNetSite | LayerSite], resnet_layer: Find
) -> UNetSites:
    """Every site of a UNet.

    Args:
        blocks: in the order of a forward pass, and the layers between them.
        resnet_layer: a ResNet block and the original name of a part of it -> that layer; None where
            this block does without.
    """
    transformers: list[TransformerSite] = []
    resnets: list[ResNetSite] = []
    attentions: list[AttentionSite] = []
    layers: list[LayerSite] = []
    features: list[FeatureSite] = []
    for block in blocks:
        if isinstance(block, TransformerSite):
            transformers.append(block)
            inner = {site.name: site for site in _transformer_layers(block)}
            layers.extend(inner.values())
            attentions.extend(own := list(_attentions(block, inner)))
            features.extend(feature for site in own for feature in _features(site))
        elif isinstance(block, ResNetSite):
            resnets.append(block)
            layers.extend(own := list(_resnet_layers(block, resnet_layer)))
            last = next(site for site in own if site.name.endswith(RESIDUAL_PART))
            features.append(FeatureSite(Feature.RESIDUAL, block, 0, last))
        else:
            layers.append(block)
    return UNetSites(
        tuple(transformers),
        tuple(resnets),
        tuple(attentions),
        tuple(layers),
        tuple(features),
        clip.LAYOUT,
    )


def _transformer_layers(block: TransformerSite) -> Iterator[LayerSite]:
    parts = dict(FIRST_PARTS)
    for layer in range(block.depth):
        parts |= {f"transformer_blocks.{layer}.{p}": roles for p, roles in LAYER_PARTS.items()}
    for part, roles in (parts | LAST_PARTS).items():
        module = block.module.get_submodule(part)
        outer, attention, _ = part.rpartition(".to_")
        owner = block.module.get_submodule(outer) if attention else None
        rows = Rows.TEXT if Role.CROSS_KV in roles else Rows.GRID
        name = f"{block.name}.{part}"
        yield LayerSite(name, rows, block.downsample, module, frozenset(roles), block, owner)


def _attentions(block: TransformerSite, layers: dict[str, LayerSite]) -> Iterator[AttentionSite]:
    for layer in range(block.depth):
        for part, kind in ATTENTIONS.items():
            path = f"transformer_blocks.{layer}.{part}"
            name, module = f"{block.name}.{path}", block.module.get_submodule(path)
            q, k, v, out = (layers[f"{name}.to_{n}"] for n in ("q", "k", "v", "out.0"))
            yield AttentionSite(name, kind, block, layer, module.heads, q, k, v, out, module)


def _features(site: AttentionSite) -> Iterator[FeatureSite]:
    if site.kind is AttentionKind.SELF:
        yield FeatureSite(Feature.QUERY, site.block, site.layer, site.query)
        yield FeatureSite(Feature.KEY, site.block, site.layer, site.key)


def _resnet_layers(block: ResNetSite, find: Find) -> Iterator[LayerSite]:
    norm = find(block.module, "out_layers.0")
    for part in RESNET_PARTS.values():
        module = find(block.module, part)
        if module is None:
            continue
        name, whole = f"{block.name}.{part}", part.startswith("emb_layers")
        if whole:
            yield LayerSite(name, Rows.WHOLE, block.downsample, module, block=block, read_by=norm)
        else:
            yield LayerSite(name, Rows.GRID, block.downsample, module, block=block)


def roles_in_unets(weight: str) -> frozenset[Role]:
    """What the layer of a weight or bias is for, by its canonical name."""
    network, _, path = weight.rpartition(".")[0].partition(".")
    if network == NETWORK:
        _, inner, rest = path.partition(".transformer_blocks.")
        part = rest.partition(".")[2] if inner else path.rpartition(".")[2]
        table = LAYER_PARTS if inner else FIRST_PARTS | LAST_PARTS
        return frozenset(table.get(part, ()))
    part = path.partition(".encoder.layers.")[2].partition(".")[2]
    return frozenset((Role.TEXT, Role.LINEAR) if part in clip.LINEAR_PARTS else ())
