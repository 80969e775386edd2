"""Localised LoRAs where text and picture attend to each other in one sequence.

    y = W x + sum_g s_g w_g delta_g(x)         every layer, every token; w_g by the kind of token:

    position of the picture   M_g, the mask there
    filling of the picture    the mean of M_g
    token of the text         0
    token of stream g         1 for LoRA g, 0 for the others

Stream g is a copy of the text that only region g reads, with LoRA g and without the other LoRAs'
words. A mask of ones is so the merged LoRA, and one of zeros the base model:

    a = (1 - sum_g M_g) Att(q, [x, text]) + sum_g M_g Att(q, [x, stream g])
    stream g reads [x, stream g]
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..concepts.concept import Diff
from ..host.inference import usable
from ..host.ports import (
    AttentionCall,
    AttentionSite,
    ForwardInfo,
    LayerSite,
    Rows,
    TokenSpans,
    UNetSites,
)
from .joint_reading import read_tokens, token_range
from .lag_masks import summed_attention
from .local import LocalEdit
from .local_layers import Masked, added, added_bias
from .local_masks import finding_sites


@dataclass(frozen=True, slots=True, eq=False)
class _Weights:
    """What tokens take of each LoRA, for as long as masks stay as they are."""

    masks: Tensor  # [B, G, h, w] that they were made of
    by_length: dict[object, Tensor]


class JointLocalEdit(LocalEdit):
    """Applies LoRAs, each in its own place, with a stream of the text for each."""

    _spans: TokenSpans | None = None
    _level: LayerSite | None = None
    _token_weights: _Weights | None = None

    def wanted_streams(self, sites: UNetSites, info: ForwardInfo) -> int:
        assert sites.joint is not None
        self._spans = sites.joint.spans(info)
        self._level = next(site for site in sites.layers if site.rows is Rows.JOINT)
        if self._active and not self._masks.same_pass:
            masks = self._masks.masks(info.timesteps.device)
            if not bool((masks[:, list(self._active)] > 0).any()):
                self._active = ()  # nowhere: the base model's own pass
        return len(self._active)

    def wanted_layers(self, sites: UNetSites) -> Iterable[LayerSite]:
        return [s for s in sites.layers if self._layers.touches(s)] if self._active else []

    def wanted_attended(self, sites: UNetSites) -> Iterable[AttentionSite]:
        watched = finding_sites(sites) if self._masks.is_finding else []
        self._watched = {site.name for site in watched}
        if self._active:
            return sites.cross_attentions
        return watched if self._rows is not None and self._rows.holds_words else []

    # layers

    def layer(
        self, site: LayerSite, inputs: Tensor, output: Tensor, info: ForwardInfo
    ) -> Tensor | None:
        weights = self._weights_for(site, inputs, info)
        flat = inputs.flatten(1, -2) if inputs.ndim > 2 else inputs[:, None]
        total = output.reshape(*flat.shape[:2], -1)
        stack = self._layers.stack(site)
        if stack is not None:
            up, down = usable(stack.up.to(inputs)), usable(stack.down.to(inputs))
            owner = torch.tensor(stack.owner, device=inputs.device)
            narrow = F.linear(flat, down) * weights.index_select(-1, owner)
            total = torch.baddbmm(total, narrow, up.T.expand(len(total), -1, -1))
        for g, (form, factor) in self._working(site.weight):
            total = total + factor * added(form, site.module, flat, _times(weights[..., g, None]))
        for g, (form, factor) in self._working(site.bias):
            assert isinstance(form, Diff)
            masked = _times(weights[..., g, None])
            total = total + factor * added_bias(form, site.module, total, masked)
        return total.view_as(output)

    def _weights_for(self, site: LayerSite, inputs: Tensor, info: ForwardInfo) -> Tensor:
        """[B', L, G] of the tokens that a layer sees, one row of its batch after the other."""
        if site.rows is Rows.TEXT:
            return self._by_stream(inputs)
        spans, level = self._spans, self._level
        assert spans is not None
        assert level is not None
        masks = self._row_weights(info.grid(level), inputs)  # [B, G, h, w]
        if self._token_weights is None or self._token_weights.masks is not masks:
            self._token_weights = _Weights(masks, {})
        known = self._token_weights.by_length
        length = inputs.shape[:-1].numel() // len(masks)
        key = (length, inputs.ndim, self._active)
        if key not in known:
            by_token = self._by_token(masks, spans, length)
            known[key] = by_token if inputs.ndim > 2 else by_token.flatten(0, 1)[:, None]
        return known[key]

    def _by_token(self, masks: Tensor, spans: TokenSpans, length: int) -> Tensor:
        """[B, L, G] of the picture alone, with or without what fills it, or of everything."""
        weights = spans.spread(masks.flatten(2), length).transpose(1, 2)
        if length <= spans.n_picture:
            return weights
        for start, g in zip(range(spans.total, length, spans.n_text), self._active, strict=False):
            weights[:, start : start + spans.n_text, g] = 1
        return weights

    def _row_weights(self, grid: tuple[int, int], like: Tensor) -> Tensor:
        """By the rows of the pass: a layer may have their tokens in one axis, or streams' rows."""
        return self._weights.by_lora(self._masks.masks(like.device), grid, like)

    def _by_stream(self, inputs: Tensor) -> Tensor:
        """[B', 1, G] where streams are further rows of the batch."""
        weights = inputs.new_zeros(len(inputs), 1, len(self._loras))
        rows = len(inputs) // (1 + len(self._active))
        for number, g in enumerate(self._active, 1):
            weights[number * rows : (number + 1) * rows, :, g] = 1
        return weights

    # attention

    def attended(self, call: AttentionCall) -> Tensor | None:
        rows, spans, level = self._rows, call.tokens, self._level
        assert rows is not None
        assert spans is not None
        assert level is not None
        grid = call.info.grid(level)
        if self._masks.is_finding and rows.holds_words and call.site.name in self._watched:
            self._watch(call, grid)
        if not self._active:
            return None
        masks = self._row_weights(grid, call.output)
        weights = self._by_token(masks, spans, spans.n_picture)  # [B, N, G]
        output, picture = call.output.clone(), spans.picture
        rest = (1 - weights.sum(dim=2, keepdim=True)).clamp_min(0)
        mixed = rest * self._of_rest_of_picture(call, rest)
        for number, g in enumerate(self._active):
            start = spans.total + number * spans.n_text
            stream = slice(start, start + spans.n_text)
            cells = (weights[..., g] > 0).any(dim=0).nonzero()[:, 0]
            places = torch.cat([cells + picture.start, token_range(stream, cells.device)])
            own = read_tokens(call, places, stream, rows.hidden(g, spans.words, cells.device))
            n = len(cells)
            mixed = mixed.index_add(1, cells, weights[:, cells, g, None] * own[:, :n])
            output[:, stream] = own[:, n:]
        output[:, picture] = mixed
        return output

    def _watch(self, call: AttentionCall, grid: tuple[int, int]) -> None:
        """How much the picture's positions look at the words, among all tokens."""
        rows = self._rows
        assert rows is not None
        query, key = (flat[rows.with_words] for flat in (call.flat_query, call.flat_key))
        chosen = rows.chosen(key.shape[1], key.device)
        attention = summed_attention(query, key, call.site.heads, chosen)
        self._masks.watch(rows.by_picture(attention), grid)

    def _of_rest_of_picture(self, call: AttentionCall, rest: Tensor) -> Tensor:
        """What positions outside of the regions read: the text without passages of painted ones."""
        rows, spans = self._rows, call.tokens
        assert rows is not None
        assert spans is not None
        own = call.output[:, spans.picture]
        hidden = rows.hidden_passages(spans.words, call.query.device)
        if hidden is None:
            return own
        cells = (rest[..., 0] > 0).any(dim=0).nonzero()[:, 0]
        read = read_tokens(call, cells + spans.picture.start, spans.text, hidden)
        return own.index_copy(1, cells, read)


def local_edit_class(sites: UNetSites) -> type[LocalEdit]:
    """The kind of edit that a network needs."""
    return JointLocalEdit if sites.joint is not None else LocalEdit


def _times(weights: Tensor) -> Masked:
    return lambda tensor: tensor * weights
