"""What a method may ask of a host, and nothing else.

A method receives a `Host` (ComfyUI or diffusers, it never asks which) and talks about the UNet in
one vocabulary: *sites* (where something can be hooked), *edits* (what steps in there for one
forward pass) and *weights* by their canonical names. Canonical names are those of the original
Stable Diffusion checkpoints without prefix:

    unet.output_blocks.4.1.transformer_blocks.0.attn2.to_k.weight
    clip_l.text_model.encoder.layers.0.self_attn.q_proj.weight     (clip_g, clip_h alike)

Alphabet: B batch, h w latent grid, N = h*w of a site, K tokens of the context, C channels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from .noise import NoisePath as NoisePath

Token = int | str | frozenset[int | str]  # a set where text encoders read different prompts
Tokens = tuple[Token, ...]  # per position: BPE id, or a handle's name for each of its vectors
WeightEdit = Callable[[Tensor], Tensor]  # original weight -> weight to compute with, same shape
HandleVectors = Mapping[str, Mapping[str, Tensor]]  # handle -> encoder ("clip_l") -> [n, width]


@dataclass(frozen=True, slots=True)
class FactoredEdit:
    """A weight edit that a layer's output can have instead: (W + BA) x = W x + B (A x).

    While it learns a host may add the residual and never make the sum of the weights: no gradient
    of the weight's size, and no second copy of the weight for the backward pass.
    """

    weight: WeightEdit
    residual: Callable[[Tensor, Tensor], Tensor]  # a layer's input, output -> output with B (A x)

    def __call__(self, original: Tensor) -> Tensor:
        return self.weight(original)


class Place(str, Enum):
    """Which arm of the UNet a block stands in."""

    DOWN = "down"
    MID = "mid"
    UP = "up"


@dataclass(frozen=True, slots=True, eq=False)
class TransformerSite:
    """One SpatialTransformer: `depth` layers of self- and cross-attention, closed by `proj_out`."""

    name: str  # canonical, without "unet.": "output_blocks.4.1"
    place: Place
    number: int  # block number within its arm as in the checkpoint; output_blocks.4.1 -> 4
    level: int  # downsampling against the latent: 1, 2, 4, 8
    width: int  # channels
    heads: int
    depth: int
    module: Any = field(repr=False)  # an nn.Module; Any, since its children have no types

    @property
    def proj_out(self) -> nn.Module:
        """1x1 convolution (SD1) on [B, C, h, w] or linear layer (SD2, SDXL) on [B, N, C]."""
        return self.module.proj_out

    def layer(self, index: int) -> Any:
        """The `index`-th transformer layer; it has `attn1` (self) and `attn2` (cross)."""
        return self.module.transformer_blocks[index]


@dataclass(frozen=True, slots=True, eq=False)
class ResNetSite:
    """One ResNet block; its output is taken before the skip connection is added."""

    name: str  # canonical, without "unet.": "output_blocks.4.0"
    place: Place
    number: int
    level: int
    width: int
    module: nn.Module = field(repr=False)
    last_layer: nn.Module = field(repr=False)  # the module whose output is the block's residual


class Role(str, Enum):
    """What a layer is for; one layer may play several."""

    CROSS_KV = "cross-attention K/V"  # keys and values that are made of the text alone
    ATTENTION = "attention to the text"  # q, k, v and output of the attention that reads the text
    ATTENTION_OUT = "attention output"  # the last of these
    MLP = "feed-forward"
    PROJ_OUT = "output projection"  # the last layer of a transformer block of a UNet
    TEXT = "text encoder"  # linear layers of the text encoders
    LINEAR = "linear"  # all that a LoRA trains: linear layers of transformers and text encoders


class Rows(str, Enum):
    """What a layer's output has one vector for."""

    GRID = "grid"  # each position of the picture: [B, C, h, w] or [B, h*w, C]
    TEXT = "text"  # each token of the context: [B, K, C]
    WHOLE = "whole"  # the whole picture: [B, C]


@dataclass(frozen=True, slots=True, eq=False)
class LayerSite:
    """One layer with weights: a linear layer, a convolution or a norm."""

    name: str  # canonical, without "unet.": "output_blocks.4.1.transformer_blocks.0.attn2.to_k"
    rows: Rows
    level: int  # downsampling of its output against the latent: 1, 2, 4, 8
    module: nn.Module = field(repr=False)
    roles: frozenset[Role] = frozenset()
    block: TransformerSite | ResNetSite | None = field(default=None, repr=False)
    attention: nn.Module | None = field(default=None, repr=False)  # that it is a part of

    @property
    def weight(self) -> str:
        """Canonical name of its weight."""
        return f"unet.{self.name}.weight"


class AttentionKind(str, Enum):
    """What the queries of an attention look at."""

    CROSS = "cross"  # the text
    SELF = "self"  # the picture
    JOINT = "joint"  # both, in one sequence


@dataclass(frozen=True, slots=True, eq=False)
class AttentionSite:
    """One attention of one layer: q, k and v, and the projection of what comes of them."""

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

    @property
    def level(self) -> int:
        """Downsampling of its queries' grid against the latent."""
        return self.block.level


@dataclass(frozen=True, slots=True)
class UNetSites:
    """Every place of a UNet where an edit can step in, in the order of a forward pass.

    Attributes:
        layers: those with weights; but not the ones that embed the time or the size of the
            picture, for they come before the grid.
    """

    transformers: tuple[TransformerSite, ...]
    resnets: tuple[ResNetSite, ...]
    attentions: tuple[AttentionSite, ...] = ()
    layers: tuple[LayerSite, ...] = ()

    def at_level(self, level: int, places: Iterable[Place] = tuple(Place)) -> list[TransformerSite]:
        """Transformer blocks of one downsampling level, in the given arms."""
        wanted = set(places)
        return [s for s in self.transformers if s.level == level and s.place in wanted]


@dataclass(frozen=True, slots=True)
class ForwardInfo:
    """What an edit may know about the forward pass that it steps into."""

    latent_shape: tuple[int, ...]  # [B, C, h, w] of the UNet's input
    timesteps: Tensor  # [B] training index, 0..999, may be fractional
    conditional: tuple[bool, ...]  # per row: False for rows of the negative prompt
    context_length: int  # K, after prompts of different length were repeated to fit
    prompts: tuple[Tokens, ...] = ()  # per row, before repeating; an empty one is not known
    pictures: tuple[int, ...] = ()  # per row: which picture of the batch it belongs to
    # Tokens of every row of a context [R, K, width]; None where nobody but the host makes contexts.
    read_context: Callable[[Tensor], Sequence[Tokens]] | None = None

    def grid(
        self, site: TransformerSite | ResNetSite | AttentionSite | LayerSite
    ) -> tuple[int, int]:
        """Rows and columns of the feature map at a site (strided convolutions round up)."""
        height, width = self.latent_shape[-2:]
        return -(-height // site.level), -(-width // site.level)


@dataclass(slots=True)
class CrossAttentionCall:
    """One cross-attention of one layer, after the host computed it."""

    site: TransformerSite
    layer: int  # 0..depth-1 within the site
    info: ForwardInfo
    module: nn.Module  # has to_k, to_v and to_out, for other contexts on the same query
    query: Tensor  # [B, N, C] projected, heads not split
    key: Tensor  # [B, K, C]
    output: Tensor  # [B, N, C] what the host computed, after to_out
    context: Tensor | None = None  # [B, K, width] what the key was projected from


@dataclass(slots=True)
class AttentionCall:
    """One attention of one layer, with heads split and after norms and position embedding."""

    site: AttentionSite
    info: ForwardInfo
    query: Tensor  # [B, heads, N, d]
    key: Tensor  # [B, heads, K, d], K = N in self-attention
    value: Tensor  # [B, heads, K, d]
    output: Tensor  # [B, N, C] what the host computed, heads joined


class UNetEdit:
    """Something that steps into the UNet for one forward pass. Override what you need.

    A hook is put on a site only when the edit asks for it in the matching `wants_*`, so an edit
    costs what it uses. Every method may return None for "leave it as it is". Edits apply in the
    order in which they are given; each sees what the ones before it left.

    Hooks live for one forward pass. When checkpointing computes a block again in the backward pass,
    they are put on again for that time, except those of edits that only read: what is computed
    again must be changed again, but not be read twice. `begin` and `end` frame the forward pass.

    Two places are named by what an edit wants of all sites, asked for at the start of a pass:

        layer      the output of a layer with weights. A LoRA that works in one region gates here:
                   `output + mask * up(down(inputs))`. `site.rows` says what a mask has to fit:
                   positions of `info.grid(site)`, tokens of the text, or neither.
        attended   what an attention hands to its output projection, before that projection. Further
                   contexts on the same query: `site.key.module(context)` and `site.value.module`
                   project them, then attend with `call.query` and mix with `call.output`.

    What an edit computes with the layers of an attention while it is called for that attention
    passes by the hooks of all edits.

    A pass in which a layer ran and did not call the edit raises MissedSitesError at its end.
    """

    reads_only: bool = False  # True: never returns a tensor, so it is not needed for recomputing

    def begin(self, info: ForwardInfo) -> None:
        """A forward pass starts."""

    def end(self) -> None:
        """The forward pass is over, finished or not. Keep no tensor that nobody asked for."""

    def wanted_layers(self, sites: UNetSites) -> Iterable[LayerSite]:
        """Where `layer` is called."""
        return ()

    def wanted_attended(self, sites: UNetSites) -> Iterable[AttentionSite]:
        """Where `attended` is called."""
        return ()

    def layer(
        self, site: LayerSite, inputs: Tensor, output: Tensor, info: ForwardInfo
    ) -> Tensor | None:
        """New output of a layer, in the shape of `output`.

        Where `site.rows` is WHOLE the output is [B, C]; ComfyUI takes [B, C, h, w] there too.
        Never call `site.module` from here: it would come back to this hook.
        """
        return None

    def attended(self, call: AttentionCall) -> Tensor | None:
        """New input [B, N, C] of an attention's output projection; `call.output` is the host's."""
        return None

    def wants_cross_attention(self, site: TransformerSite) -> bool:
        return False

    def wants_cross_projections(self, site: TransformerSite) -> bool:
        return False

    def wants_self_attention(self, site: TransformerSite) -> bool:
        return False

    def wants_projection(self, site: TransformerSite) -> bool:
        return False

    def wants_resnet(self, site: ResNetSite) -> bool:
        return False

    def cross_attention(self, call: CrossAttentionCall) -> Tensor | None:
        """New output [B, N, C] of a cross-attention."""
        return None

    def cross_key(
        self, site: TransformerSite, layer: int, key: Tensor, info: ForwardInfo
    ) -> Tensor | None:
        """New projected key [B, K, C] of a cross-attention, before the host attends."""
        return None

    def cross_value(
        self, site: TransformerSite, layer: int, value: Tensor, info: ForwardInfo
    ) -> Tensor | None:
        """New projected value [B, K, C] of a cross-attention, before the host attends."""
        return None

    def self_query(
        self, site: TransformerSite, layer: int, query: Tensor, info: ForwardInfo
    ) -> Tensor | None:
        """New projected query [B, N, C] of a self-attention, heads not split."""
        return None

    def self_key(
        self, site: TransformerSite, layer: int, key: Tensor, info: ForwardInfo
    ) -> Tensor | None:
        """New projected key [B, N, C] of a self-attention, heads not split."""
        return None

    def projection(
        self, site: TransformerSite, inputs: Tensor, output: Tensor, info: ForwardInfo
    ) -> Tensor | None:
        """New output of `proj_out`: [B, C, h, w] where it is a convolution, else [B, N, C].

        Never call `site.proj_out` from here: it would come back to this hook.
        """
        return None

    def resnet(self, site: ResNetSite, output: Tensor, info: ForwardInfo) -> Tensor | None:
        """New residual [B, C, h, w] of a ResNet block, before the skip connection is added."""
        return None


class WaitsForPrompt(Exception):
    """An edit needs a pass with another prompt at this noise level first; hosts try that order."""


class StopForward(Exception):
    """An edit has what it came for: `predict` stops here and lets this through to its caller."""


def find_run(tokens: Tokens, piece: Sequence[Token]) -> tuple[int, ...]:
    """Positions of every occurrence of a run of tokens, each once; empty when there is none."""
    piece, size, found = tuple(piece), len(piece), dict[int, None]()
    for start in range(len(tokens) - size + 1 if size else 0):
        if all(is_token(tokens[start + i], piece[i]) for i in range(size)):
            found |= dict.fromkeys(range(start, start + size))
    return tuple(found)


def is_token(token: Token, wanted: Token) -> bool:
    """Whether a position holds a token, alone or among others."""
    return token == wanted or (isinstance(token, frozenset) and wanted in token)


@dataclass(frozen=True, slots=True)
class Prompt:
    """One encoded prompt."""

    text: str
    context: Tensor  # [1, K, width]
    tokens: Tokens  # K entries
    pooled: Tensor | None = None  # [1, width] for models that take one (SDXL)

    def find(self, piece: Sequence[Token]) -> tuple[int, ...]:
        """Positions of every occurrence of a run of tokens; empty when there is none."""
        return find_run(self.tokens, piece)

    def find_handle(self, name: str) -> tuple[int, ...]:
        """Positions of all vectors of a handle; empty when the prompt does not hold it."""
        return tuple(i for i, token in enumerate(self.tokens) if is_token(token, name))


class Progress(Protocol):
    """Where a long run reports to."""

    def __call__(
        self, step: int, total: int, message: str = "", preview: Tensor | None = None
    ) -> None:
        """Tell how far we are; `preview` is an image [H, W, 3], 0..1. Raises when cancelled."""
        ...


def no_progress(step: int, total: int, message: str = "", preview: Tensor | None = None) -> None:
    """Reports nowhere."""


def part_of(whole: Progress, done: int, of: int, name: str, each: int = 1) -> Progress:
    """For one part of a longer stretch: its steps come after `done` and count `each`."""

    def progress(step: int, total: int, message: str = "", preview: Tensor | None = None) -> None:
        whole(done + step * each, of, name or message, preview)

    return progress


class Host(Protocol):
    """A base model: UNet, text encoders and VAE, in ComfyUI or in diffusers."""

    @property
    def sites(self) -> UNetSites: ...

    @property
    def noise_path(self) -> NoisePath:
        """How the model mixes picture and noise, and what its predictions mean."""
        ...

    @property
    def encoders(self) -> Mapping[str, int]:
        """Text encoder -> width of its token vectors."""
        ...

    @property
    def latent_channels(self) -> int: ...

    @property
    def pixels_per_latent(self) -> int:
        """H / h, 8 for Stable Diffusion."""
        ...

    @property
    def device(self) -> torch.device:
        """Where `predict` computes and expects its tensors."""
        ...

    @property
    def dtype(self) -> torch.dtype:
        """Precision of a forward pass inside the UNet."""
        ...

    @property
    def fingerprint(self) -> str:
        """Family and shapes of the base model, as stored in a concept."""
        ...

    def predict(
        self,
        latent: Tensor,
        timesteps: Tensor,
        prompts: Sequence[Prompt],
        edits: Sequence[UNetEdit] = (),
        conditional: Sequence[bool] | None = None,
    ) -> Tensor:
        """What the network itself predicts, [B, C, h, w] float32; `noise_path` says what it means.

        Differentiable in `latent`, in the contexts and in trained weights wherever they require
        gradients and grad mode is on.

        Args:
            latent: [B, C, h, w] x_t of scaled latents.
            timesteps: [B] the path's t, integers 0..T-1 where levels are numbered.
            prompts: one per row, or a single one for all rows.
            edits: step in for this pass only.
            conditional: per row, False for rows of a negative prompt; all True by default.

        Raises:
            StopForward: an edit ended the pass; every hook is off again.
        """
        ...

    def tokenize(self, text: str) -> Tokens:
        """BPE ids of a text, without start, end and padding."""
        ...

    def encode_prompt(self, text: str, handles: HandleVectors | None = None) -> Prompt:
        """Encode a prompt of any length; differentiable in the handle vectors.

        `<name>` in the text becomes the vectors of handle `<name>`; other words stay words.
        """
        ...

    def word_vectors(self, word: str) -> dict[str, Tensor]:
        """Token vectors [n, width] of a word per encoder, one row for each of its BPE tokens."""
        ...

    def encode_image(self, image: Tensor) -> Tensor:
        """Scaled latents [B, C, h, w] (mean of the VAE posterior) of images [B, H, W, 3], 0..1."""
        ...

    def decode_latent(self, latent: Tensor) -> Tensor:
        """Images [B, H, W, 3], 0..1, on the CPU."""
        ...

    def weight(self, name: str) -> Tensor:
        """Original weight by canonical name; detached, never patched. Do not write into it."""
        ...

    def weight_names(self) -> list[str]:
        """Canonical names of every weight and bias of UNet and text encoders."""
        ...

    def edited(
        self, weights: Mapping[str, WeightEdit], *, trainable: bool, checkpointing: bool = False
    ) -> AbstractContextManager[None]:
        """Compute with edited weights (canonical name -> edit) until the context is left.

        With `trainable` the edits are called on every use, so gradients reach their parameters, and
        forward passes may run under autograd (in ComfyUI: outside of inference mode). Without it
        they are called once. `checkpointing` recomputes activations in the backward pass.
        On leaving, also through an exception, the model is bit for bit what it was.
        """
        ...


def latent_size(host: Host, size_px: Sequence[int]) -> tuple[int, int]:
    """(h, w) of the latents of pictures of (H, W)."""
    height, width = size_px
    return height // host.pixels_per_latent, width // host.pixels_per_latent
