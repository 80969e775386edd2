"""Edits of a forward pass, and the information that they receive.

Alphabet: B batch, h w latent grid, N = h*w of a site, K tokens of the context, C channels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .conditioning import OwnTexts, TextLayout, Tokens
from .sites import AttentionSite, LayerSite, ResNetSite, TransformerSite, UNetSites
from .token_spans import TokenSpans


@dataclass(frozen=True, slots=True)
class BatchPart:
    """Which rows of a batch a pass has, where prompts of unlike length cannot share one."""

    number: int  # 0 is the first of the passes
    rows: tuple[int, ...]  # of each row of the pass: its number in the batch
    pictures: int  # of the whole batch


@dataclass(frozen=True, slots=True)
class ForwardInfo:
    """Information for an edit about its forward pass."""

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
    text: TextLayout = TextLayout()
    part: BatchPart | None = None  # None where the pass has the whole batch

    @property
    def n_pictures(self) -> int:
        """Pictures of the batch, also of those that are not in this part of it."""
        if self.part is not None:
            return self.part.pictures
        return max(self.pictures, default=self.latent_shape[0] - 1) + 1

    @property
    def is_first(self) -> bool:
        """Whether this pass is the whole batch, or the first part of it."""
        return self.part is None or self.part.number == 0

    @property
    def rows(self) -> tuple[int, ...]:
        """Of each row of the pass: its number in the batch."""
        return self.part.rows if self.part is not None else tuple(range(self.latent_shape[0]))

    def content(self, n_keys: int, device: torch.device) -> Tensor | None:
        """[B, n_keys] which keys stand for a piece of the prompt; None where that does not count.

        Keys of a row whose tokens nobody knows count all, and so do those that others append.
        """
        if not self.text.padded:
            return None
        counts = torch.ones(self.latent_shape[0], n_keys, dtype=torch.bool)
        for row, tokens in enumerate(self.prompts):
            is_content = torch.tensor(self.text.is_content(tokens), dtype=torch.bool)
            for start in range(0, self.context_length if tokens else 0, len(tokens) or 1):
                part = is_content[: max(0, n_keys - start)]
                counts[row, start : start + len(part)] = part
            if not bool(counts[row].any()):  # an empty prompt
                counts[row] = True
        return counts.to(device)

    def grid(
        self, site: TransformerSite | ResNetSite | AttentionSite | LayerSite
    ) -> tuple[int, int]:
        """Rows and columns of the feature map at a site (strided convolutions round up)."""
        height, width = self.latent_shape[-2:]
        return -(-height // site.downsample), -(-width // site.downsample)


@dataclass(slots=True, eq=False)
class StreamTexts:
    """Texts of streams that are not the pass's own, see `UNetEdit.wanted_streams`.

    Attributes:
        contexts: [1, K, width] of each stream; they may differ in length.
        running: the stream whose text a layer reads at this moment; None for the pass's own text.
            The host tells it, in layers that read the text alone.
    """

    contexts: Sequence[Tensor]
    running: int | None = None


@dataclass(slots=True)
class AttentionCall:
    """One attention of one layer, with heads split and after norms and position embedding."""

    site: AttentionSite
    info: ForwardInfo
    query: Tensor  # [B, heads, N, d]
    key: Tensor  # [B, heads, K, d], K = N in self-attention
    value: Tensor  # [B, heads, K, d]
    output: Tensor  # [B, N, C] what the host computed, heads joined
    context: Tensor  # [B, K, width] what the key was projected from
    tokens: TokenSpans | None = None  # of a joint attention, whose N = K counts text and picture

    @property
    def flat_query(self) -> Tensor:
        """[B, N, C] heads joined again; of a joint attention, those of the picture's positions."""
        query = self.query if self.tokens is None else self.tokens.positions_of(self.query)
        return query.transpose(1, 2).flatten(2)

    @property
    def flat_key(self) -> Tensor:
        """[B, K, C] heads joined again; of a joint attention, rows of the context come first."""
        key = self.key if self.tokens is None else self.tokens.text_first(self.key)
        return key.transpose(1, 2).flatten(2)


def run_edits(
    edits: Iterable[Callable[[AttentionCall], Tensor | None]],
    call: AttentionCall,
    editing: set[nn.Module],
) -> None:
    """Call methods of edits in their order; each sees the output of those before it.

    Args:
        editing: holds the attention meanwhile, so that no hook reacts to what an edit projects.
    """
    editing.add(call.site.module)
    try:
        for edit in edits:
            changed = edit(call)
            if changed is not None:
                call.output = changed
    finally:
        editing.discard(call.site.module)


class UNetEdit:
    """Changes or reads the network during one forward pass. Override the methods you need.

    There are three kinds of place. At the start of a pass an edit returns its sites, and is called
    only there:

        layer      the output of a layer with weights. A LoRA that works in one region gates here:
                   `output + mask * up(down(inputs))`. `site.rows` says what a mask has to fit:
                   positions of `info.grid(site)`, tokens of the text, or neither. Feature maps
                   that are kept and put back later (`sites.features`) are layers, too.
        attended   the output of an attention before its output projection. Further
                   contexts on the same query: `site.key.module(context)` and `site.value.module`
                   project them, then attend with `call.query` and mix with `call.output`.
        attention  the same attention after its output projection.

    Every method may return None for no change. Edits apply in their order; each gets the result of
    the previous ones. When an edit, called for an attention, calls the layers of that attention,
    the hooks of all edits are inactive.

    Hooks exist for one forward pass. When checkpointing recomputes a block in the backward pass,
    they are registered again for that time, except those of edits that only read: the recomputed
    block must change again, but must not be read twice. `begin` and `end` frame the forward pass.

    If a layer ran without calling the edit, the pass raises MissedSitesError at its end.
    """

    reads_only: bool = False  # True: never returns a tensor, so it is not needed for recomputing

    def begin(self, info: ForwardInfo) -> None:
        """A forward pass starts."""

    def end(self) -> None:
        """The forward pass ended, completely or not. Release all tensors that are not results."""

    def wanted_streams(self, sites: UNetSites, info: ForwardInfo) -> int | StreamTexts:
        """How many copies of the text shall go through a network with joint attention, behind its
        sequence (see `host.joint`), or which other texts; asked before the places below. One edit
        of a pass may.
        """
        return 0

    def wanted_layers(self, sites: UNetSites) -> Iterable[LayerSite]:
        """Where `layer` is called."""
        return ()

    def wanted_attended(self, sites: UNetSites) -> Iterable[AttentionSite]:
        """Where `attended` is called."""
        return ()

    def wanted_attentions(self, sites: UNetSites) -> Iterable[AttentionSite]:
        """Where `attention` is called."""
        return ()

    def layer(
        self, site: LayerSite, inputs: Tensor, output: Tensor, info: ForwardInfo
    ) -> Tensor | None:
        """New output of a layer, in the shape of `output`.

        Where `site.rows` is WHOLE the output is [B, C]; ComfyUI takes [B, C, h, w] there too.
        Positions come in one axis, also where a network keeps time, rows and columns apart.
        Do not call `site.module` here: it would call this hook again.
        """
        return None

    def attended(self, call: AttentionCall) -> Tensor | None:
        """New input [B, N, C] of an attention's output projection; `call.output` is the host's."""
        return None

    def attention(self, call: AttentionCall) -> Tensor | None:
        """New output [B, N, C] of an attention, behind its output projection."""
        return None


class WaitsForPrompt(Exception):
    """An edit first needs a pass with another prompt at this noise level; hosts then reorder."""


class StopForward(Exception):
    """An edit is finished: `predict` stops and passes this exception to its caller."""
