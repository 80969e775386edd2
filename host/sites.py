"""Sites of a network for edits: blocks, attentions and single layers.

Alphabet: B batch, h w latent grid, N = h*w of a site, K tokens of the context, C channels.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from .conditioning import TextLayout

if TYPE_CHECKING:
    from .joint import JointSeam


class Place(str, Enum):
    """The arm of the UNet that contains a block."""

    DOWN = "down"
    MID = "mid"
    UP = "up"
    FLAT = "flat"  # a network without arms: all of its blocks work on one grid


@dataclass(frozen=True, slots=True, eq=False)
class TransformerSite:
    """One transformer block: `depth` layers of self- and cross-attention."""

    name: str  # canonical, without "unet.": "output_blocks.4.1"
    place: Place
    number: int  # block number within its arm as in the checkpoint; output_blocks.4.1 -> 4
    downsample: int  # downsampling against the latent: 1, 2, 4, 8
    width: int  # channels
    heads: int
    depth: int
    module: Any = field(repr=False)  # an nn.Module; Any, since its children have no types


@dataclass(frozen=True, slots=True, eq=False)
class ResNetSite:
    """One ResNet block; its output is taken before the skip connection is added."""

    name: str  # canonical, without "unet.": "output_blocks.4.0"
    place: Place
    number: int
    downsample: int
    width: int
    module: nn.Module = field(repr=False)


class Role(str, Enum):
    """The role of a layer; a layer may have several."""

    CROSS_KV = "cross-attention K/V"  # keys and values that are made of the text alone
    ATTENTION = "attention to the text"  # q, k, v and output of the attention that reads the text
    ATTENTION_OUT = "attention output"  # the last of these
    MLP = "feed-forward"
    # The last layer of a transformer block of a UNet; where blocks have none, every layer of a
    # block that works on the picture's grid.
    PROJ_OUT = "output projection"
    TEXT = "text encoder"  # linear layers of the text encoders
    LINEAR = "linear"  # all that a LoRA trains: linear layers of transformers and text encoders


class Rows(str, Enum):
    """What each vector of a layer's output represents."""

    GRID = "grid"  # each position of the picture: [B, C, h, w] or [B, N, C]
    TEXT = "text"  # each token of the context: [B, K, C]
    WHOLE = "whole"  # the whole picture: [B, C]
    JOINT = "joint"  # each token of a sequence of text and picture, or of its picture: [B, S, C]


@dataclass(frozen=True, slots=True, eq=False)
class LayerSite:
    """One layer with weights: a linear layer, a convolution or a norm."""

    name: str  # canonical, without "unet.": "output_blocks.4.1.transformer_blocks.0.attn2.to_k"
    rows: Rows
    downsample: int  # downsampling of its output against the latent: 1, 2, 4, 8
    module: nn.Module = field(repr=False)
    roles: frozenset[Role] = frozenset()
    block: TransformerSite | ResNetSite | None = field(default=None, repr=False)
    attention: nn.Module | None = field(default=None, repr=False)  # that it is a part of
    # The norm that reads its output after it was spread over the grid, where `rows` is WHOLE.
    read_by: nn.Module | None = field(default=None, repr=False)
    network: str = "unet"  # what canonical names of its weights begin with
    part: slice | None = None  # of the module's output, where one module holds several layers

    @property
    def weight(self) -> str:
        """Canonical name of its weight."""
        return f"{self.network}.{self.name}.weight"

    @property
    def outputs(self) -> int | None:
        """Channels of its output; None for a norm."""
        module: Any = self.module
        if self.part is not None:
            return self.part.stop - self.part.start
        return getattr(module, "out_features", None) or getattr(module, "out_channels", None)

    @property
    def bias(self) -> str:
        """Canonical name of its bias, whether it has one or not."""
        return f"{self.network}.{self.name}.bias"


class AttentionKind(str, Enum):
    """What the queries of an attention look at."""

    CROSS = "cross"  # the text
    SELF = "self"  # the picture
    JOINT = "joint"  # both, in one sequence


@dataclass(frozen=True, slots=True, eq=False)
class AttentionSite:
    """One attention of one layer: q, k and v, and the output projection."""

    name: str  # canonical: "output_blocks.4.1.transformer_blocks.0.attn2"
    kind: AttentionKind
    block: TransformerSite = field(repr=False)
    layer: int  # depth in the block, 0..depth-1
    heads: int
    query: LayerSite = field(repr=False)
    key: LayerSite = field(repr=False)
    value: LayerSite = field(repr=False)
    out: LayerSite = field(repr=False)
    module: Any = field(repr=False)
    # Norms of each head behind the projections, and where their outputs have the heads.
    query_norm: Any = field(default=None, repr=False)
    key_norm: Any = field(default=None, repr=False)
    heads_axis: int = 1

    @property
    def downsample(self) -> int:
        """Downsampling of its queries' grid against the latent."""
        return self.block.downsample

    def split(self, projected: Tensor) -> Tensor:
        """[B, K, C] of a projection -> [B, heads, K, d]."""
        return projected.view(*projected.shape[:-1], self.heads, -1).transpose(1, 2)

    def keys(self, projected: Tensor) -> Tensor:
        """Keys [B, heads, K, d] of what the key's layer gives, as the attention compares them."""
        split = self.split(projected)
        return split if self.key_norm is None else self.key_norm(split)


class Feature(str, Enum):
    """What a feature map is."""

    RESIDUAL = "resnet"  # output of a ResNet block, before the skip connection is added
    QUERY = "query"  # of self-attention
    KEY = "key"
    VALUE = "value"


@dataclass(frozen=True, slots=True, eq=False)
class FeatureSite:
    """A feature map of the picture that can be captured and injected into another pass."""

    kind: Feature
    block: TransformerSite | ResNetSite = field(repr=False)
    depth: int  # layer of the block, 0 in a ResNet block
    layer: LayerSite = field(repr=False)  # whose output it is

    @property
    def key(self) -> tuple[str, str, int]:
        """Its name in captured features."""
        return self.kind.value, self.block.name, self.depth


@dataclass(frozen=True, slots=True, eq=False)
class UNetSites:
    """Every place of a UNet where an edit can step in, in the order of a forward pass.

    Attributes:
        layers: those with weights; but not the ones that embed the time or the size of the
            picture, for they come before the grid.
        text: how the contexts are laid out that its attentions read.
        network: what canonical names of its weights begin with.
        family: its name in fingerprints.
        finders: blocks that locate words best; empty if the downsampling factor decides.
        located_at: shares of the path's last t between which they do.
        joint: how to step in where text and picture are one sequence.
        kept_by_block: tensors of [positions, width] that a block of a transformer keeps for the
            backward pass; 0 for a UNet.
    """

    transformers: tuple[TransformerSite, ...]
    resnets: tuple[ResNetSite, ...]
    attentions: tuple[AttentionSite, ...] = ()
    layers: tuple[LayerSite, ...] = ()
    features: tuple[FeatureSite, ...] = ()
    text: TextLayout = TextLayout()
    network: str = "unet"
    family: str = "unet"
    finders: tuple[TransformerSite, ...] = ()
    located_at: tuple[float, float] = (0.0, 1.0)
    joint: JointSeam | None = None
    kept_by_block: int = 0

    @property
    def cross_attentions(self) -> list[AttentionSite]:
        """Attentions that read the text."""
        return [site for site in self.attentions if site.kind is not AttentionKind.SELF]

    def at_downsample(
        self, downsample: int, places: Iterable[Place] = tuple(Place)
    ) -> list[TransformerSite]:
        """Transformer blocks with one downsampling factor, in the given arms."""
        requested = set(places)
        return [s for s in self.transformers if s.downsample == downsample and s.place in requested]
