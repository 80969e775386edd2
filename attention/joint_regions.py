"""The region feature fuser where text and picture are one sequence.

Concept Weaver (Kwon et al. 2024, arXiv 2404.03913), Step 5, with a stream of text for each region
(see `host.streams`), because every block changes the text:

    h_fuse = (1 + lambda) sum_i M_i h_i - lambda h_base      at positions of the picture
    h_i    = Att(q, [x, stream i])                           stream i reads [x, stream i] as well
    h_base = Att(q, [x, text])                               x: the picture

The paper mixes behind the output projection; that is linear, so the place makes no difference.
A concept's changes work on its own stream, and at positions of the picture under its mask:

    y = W x + sum_i M_i delta_i(x)

Rows of the negative prompt are the base model's.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from ..concepts.changes import Diff
from ..host.inference import usable
from ..host.ports import (
    AttentionCall,
    AttentionSite,
    ForwardInfo,
    LayerSite,
    Rows,
    StreamTexts,
    TokenSpans,
    UNetEdit,
    UNetSites,
)
from .fusion import RegionSource
from .joint_reading import read_tokens, token_range
from .local_layers import Masked, added, added_bias
from .regions import at_grid


class JointRegions(UNetEdit):
    """Draws regions in the rows with a prompt.

    Args:
        sources: one per region, the background's last.
        masks: [N + 1, H, W] in the same order, see `attention.regions`.
        suppression: lambda, 0 or more; 0 mixes only.
    """

    def __init__(
        self, sources: Sequence[RegionSource], masks: Tensor, suppression: float = 0.0
    ) -> None:
        self._all, self._masks, self._suppression = list(sources), masks, suppression
        self._sources: list[RegionSource] = []  # that have a cell in this pass
        self._streams: list[slice] = []  # of tokens, one each
        self._texts: StreamTexts | None = None
        self._spans: TokenSpans | None = None
        self._planes = self._tokens = torch.empty(0)
        self._rows: list[int] = []
        self._weights: dict[int, Tensor] = {}

    def begin(self, info: ForwardInfo) -> None:
        self._rows = [row for row, has_prompt in enumerate(info.conditional) if has_prompt]
        self._weights = {}

    def end(self) -> None:
        self._texts = self._spans = None
        self._weights = {}

    def wanted_streams(self, sites: UNetSites, info: ForwardInfo) -> int | StreamTexts:
        assert sites.joint is not None
        self._texts = None
        if not self._rows:
            return 0
        self._spans = spans = sites.joint.spans(info)
        grid = info.grid(sites.attentions[0])
        planes = at_grid(usable(self._masks.cpu()), grid).flatten(1)
        drawn = [i for i, plane in enumerate(planes) if bool(plane.any())]
        self._planes = planes[drawn].to(info.timesteps.device)
        self._sources = [self._all[i] for i in drawn]
        start, self._streams = spans.total, []
        for source in self._sources:
            stop = start + sites.joint.filled(source.context.shape[1])
            self._streams.append(slice(start, stop))
            start = stop
        self._texts = StreamTexts([source.context for source in self._sources])
        return self._texts

    def wanted_layers(self, sites: UNetSites) -> Iterable[LayerSite]:
        if self._texts is None:
            return []
        changed = {name for source in self._sources for name in source.changes}
        return [site for site in sites.layers if {site.weight, site.bias} & changed]

    def wanted_attended(self, sites: UNetSites) -> Iterable[AttentionSite]:
        return [] if self._texts is None else sites.cross_attentions

    def layer(
        self, site: LayerSite, inputs: Tensor, output: Tensor, info: ForwardInfo
    ) -> Tensor | None:
        if site.rows is Rows.TEXT:
            return self._of_text(site, inputs, output)
        rows = info.latent_shape[0]
        tokens = inputs.reshape(rows, -1, inputs.shape[-1])  # some hosts join a batch's tokens
        total = output.reshape(*tokens.shape[:2], -1)
        weights = self._by_token(tokens)
        for source, weight in zip(self._sources, weights, strict=True):
            total = _changed(source, site, tokens, total, lambda t, w=weight: t * w)
        return total.view_as(output)

    def _of_text(self, site: LayerSite, inputs: Tensor, output: Tensor) -> Tensor | None:
        """In front of the blocks: each stream with its own concept, the pass's text with none."""
        assert self._texts is not None
        if (running := self._texts.running) is None:
            return None
        return _changed(self._sources[running], site, inputs, output, lambda t: t)

    def _by_token(self, tokens: Tensor) -> Tensor:
        """[G, B, L, 1] what tokens [B, L, C] take of each region's concept."""
        length, spans = tokens.shape[1], self._spans
        assert spans is not None
        if length not in self._weights:
            weights = spans.spread(self._planes[None], length)[0]
            for number, stream in enumerate(self._streams if length > spans.total else ()):
                weights[number, stream] = 1
            by_row = weights.new_zeros(len(tokens), 1)
            by_row[self._rows] = 1
            self._weights[length] = (weights[:, None] * by_row)[..., None]
        return self._weights[length].to(tokens)

    def attended(self, call: AttentionCall) -> Tensor | None:
        spans, rows = call.tokens, self._rows
        assert spans is not None
        picture, output = spans.picture, call.output.clone()
        base = output[rows, picture]
        weights = spans.spread(self._planes[None], spans.n_picture)[0].to(base)
        mixed = torch.zeros_like(base)
        for weight, stream in zip(weights, self._streams, strict=True):
            cells = weight.nonzero()[:, 0]
            places = torch.cat([cells + picture.start, token_range(stream, cells.device)])
            own = read_tokens(call, places, stream, rows=rows)
            mixed = mixed.index_add(1, cells, weight[cells, None] * own[:, : len(cells)])
            output[rows, stream] = own[:, len(cells) :]
        # (1 + lambda) mixed - lambda base, written so that equal features stay bit for bit
        output[rows, picture] = mixed + self._suppression * (mixed - base)
        return output


def _changed(
    source: RegionSource, site: LayerSite, inputs: Tensor, output: Tensor, masked: Masked
) -> Tensor:
    """The output of a layer with what a region's concept adds to it."""
    if change := source.changes.get(site.weight):
        output = output + added(change, site.module, inputs, masked)
    if isinstance(bias := source.changes.get(site.bias), Diff):
        output = output + added_bias(bias, site.module, output, masked)
    return output
