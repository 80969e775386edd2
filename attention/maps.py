"""Cross-attention maps: which parts of the picture a word attends to.

    probs -> CA     softmax(q k^T / sqrt(d)), head mean, layer mean

The host runs its own fast attention; the capture keeps projected queries and keys of the requested
blocks, and computes the probabilities of the requested tokens from them on demand. Where text and
picture are one sequence, keys are all of it, and the whole map would be too large: see
`lag_masks.summed_attention`.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from ..host.ports import (
    AttentionCall,
    AttentionSite,
    ForwardInfo,
    StopForward,
    Tokens,
    TransformerSite,
    UNetEdit,
    UNetSites,
)
from .context_rows import prompts_of_others
from .lag_masks import summed_attention


@dataclass(frozen=True, slots=True)
class TokenQuery:
    """Tokens of one batch row; their probabilities are summed."""

    row: int  # 0..B-1 of the batch
    positions: tuple[int, ...]  # within the prompt, 0..length-1
    length: int  # K of the prompt before it was repeated to fit others

    def columns(self, context_length: int) -> list[int]:
        """Key positions in a context that may repeat the prompt."""
        return [
            start + p for start in range(0, context_length, self.length) for p in self.positions
        ]


@dataclass(frozen=True, slots=True)
class _Projected:
    """Query and key of one layer."""

    query: Tensor  # [B, N, C]
    key: Tensor  # [B, K, C]
    heads: int
    grid: tuple[int, int]
    context_length: int  # keys behind it are not the prompt's: other packs append their own
    content: Tensor | None  # [B, K] keys that maps count, where not all do
    rows: tuple[int, ...]  # their numbers in the batch, of which a pass may have a part
    is_joint: bool  # keys are those of text and picture


class AttentionCapture(UNetEdit):
    """Keeps queries and keys of some blocks during one forward pass; changes nothing.

    Differentiable: maps carry gradients to whatever the queries and keys depend on.

    Args:
        sites: blocks whose attention is kept, every layer of them.
        stop: end the forward pass with StopForward after the last of them.
    """

    reads_only = True

    def __init__(self, sites: Collection[TransformerSite], *, stop: bool = False) -> None:
        self._sites = frozenset(sites)
        self._layers = sum(site.depth for site in self._sites)
        self._stop = stop
        self._kept: list[_Projected] = []
        self._of_pass = 0  # layers kept in this pass
        self.prompts_of_others: Sequence[Tokens] = ()  # of every row, where others bring rows

    def begin(self, info: ForwardInfo) -> None:
        if info.is_first:
            self._kept.clear()
            self.prompts_of_others = ()
        self._of_pass = 0

    def wanted_attentions(self, sites: UNetSites) -> list[AttentionSite]:
        return [site for site in sites.cross_attentions if site.block in self._sites]

    def attention(self, call: AttentionCall) -> None:
        if not self._kept:
            self.prompts_of_others = prompts_of_others(call)
        grid, length = call.info.grid(call.site), call.info.context_length
        projected = call.flat_query, call.flat_key
        keys = projected[1]
        content = call.info.content(keys.shape[1], keys.device)
        rows = call.info.rows if len(keys) == len(call.info.rows) else tuple(range(len(keys)))
        kept = (call.site.heads, grid, length, content, rows, call.tokens is not None)
        self._kept.append(_Projected(*projected, *kept))
        self._of_pass += 1
        if self._stop and self._of_pass == self._layers:
            raise StopForward

    def maps(self, queries: Sequence[TokenQuery], size: tuple[int, int] | None = None) -> Tensor:
        """Mean over heads, layers and blocks, for each query.

        Args:
            queries: rows and tokens; G of them.
            size: grid to which every block's map is resized (bilinear) before the mean. May be
                left out when all captured blocks have the same downsampling factor.

        Returns:
            [G, h, w] probabilities 0..1, float32.
        """
        if not self._kept:
            raise RuntimeError("Nothing was captured: run a forward pass with this edit first.")
        groups: dict[tuple[int, ...], list[_Projected]] = {}
        for layer in self._kept:
            groups.setdefault(layer.rows, []).append(layer)
        maps: dict[int, Tensor] = {}  # by number of the query
        for rows, layers in groups.items():
            there = [g for g, query in enumerate(queries) if query.row in rows]
            if there:
                own = _mean_maps(layers, [queries[g] for g in there], size)
                maps |= dict(zip(there, own, strict=True))
        return torch.stack([maps[g] for g in range(len(queries))])

    def clear(self) -> None:
        """Release the captured tensors."""
        self._kept.clear()


def _mean_maps(
    layers: Sequence[_Projected], queries: Sequence[TokenQuery], size: tuple[int, int] | None
) -> Tensor:
    """[G, h, w] of rows that shared a pass, mean over layers."""
    total: Tensor | None = None
    for layer in layers:
        probs = (_joint_probs if layer.is_joint else _token_probs)(layer, queries)
        maps = rearrange(probs, "g (h w) -> g h w", h=layer.grid[0])
        if size is not None and layer.grid != size:
            maps = F.interpolate(maps[None], size, mode="bilinear", align_corners=False)[0]
        total = maps if total is None else total + maps
    assert total is not None
    return total / len(layers)


def _joint_probs(layer: _Projected, queries: Sequence[TokenQuery]) -> Tensor:
    """[G, N] float32: share of all keys, of which only those of words are looked at."""
    rows = [layer.rows.index(query.row) for query in queries]
    words = layer.key.new_zeros(len(rows), layer.context_length, 1, dtype=torch.float32)
    for g, query in enumerate(queries):
        words[g, query.columns(layer.context_length)] = 1
    return summed_attention(layer.query[rows], layer.key[rows], layer.heads, words)[:, 0]


def _token_probs(layer: _Projected, queries: Sequence[TokenQuery]) -> Tensor:
    """Head mean of the summed token probabilities, [G, N] float32."""
    queries = [replace(query, row=layer.rows.index(query.row)) for query in queries]
    # Only the rows that somebody asked for: class images of prior preservation cost nothing.
    rows = sorted({q.row for q in queries})
    query = rearrange(layer.query[rows].float(), "r n (a d) -> r a n d", a=layer.heads)
    key = rearrange(layer.key[rows].float(), "r k (a d) -> r a k d", a=layer.heads)
    logits = query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5  # [R, heads, N, K]
    if layer.content is not None:
        logits = logits.masked_fill(~layer.content[rows][:, None, None], float("-inf"))
    probs = logits.softmax(dim=-1).mean(dim=1)  # [R, N, K]
    columns = [q.columns(layer.context_length) for q in queries]
    return torch.stack(
        [probs[rows.index(q.row)][:, c].sum(dim=-1) for q, c in zip(queries, columns, strict=True)]
    )


def normalised_by_max(maps: Tensor) -> Tensor:
    """Each map divided by its largest value, 0..1 (Break-A-Scene's official code)."""
    return maps / maps.amax(dim=(-2, -1), keepdim=True).clamp_min(1e-12)


def normalised_min_max(maps: Tensor) -> Tensor:
    """Each map stretched to 0..1 (CLiC's official code)."""
    low = maps.amin(dim=(-2, -1), keepdim=True)
    return (maps - low) / (maps.amax(dim=(-2, -1), keepdim=True) - low).clamp_min(1e-12)
