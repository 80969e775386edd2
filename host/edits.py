"""What steps into one forward pass of a network, and what it may know there.

Alphabet: B batch, h w latent grid, N = h*w of a site, K tokens of the context, C channels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from .conditioning import OwnTexts, Tokens
from .sites import AttentionSite, LayerSite, ResNetSite, TransformerSite, UNetSites


@dataclass(frozen=True, slots=True)
class ForwardInfo:
    """What an edit may know about the forward pass that it steps into."""

    latent_shape: tuple[int, ...]  # [B, C, h, w] of the UNet's input
    timesteps: Tensor  # [B] training index, 0..999, may be fractional
    conditional: tuple[bool, ...]  # per row: False for rows of the negative prompt
    context_length: int  # K, after prompts of different length were repeated to fit
    prompts: tuple[Tokens, ...] = ()  # per row, before repeating; an empty one is not known
    pictures: tuple[int, ...] = ()  # per row: which picture of the batch it belongs to
    encoded: tuple[object, ...] = ()  # per row: equal for rows of the same encoded prompt
    own_texts: tuple[OwnTexts, ...] = ()  # per row, see `Prompt.own_texts`
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
