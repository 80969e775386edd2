"""Localised LoRAs: one pass per step, every layer gated, a separate text for each region.

    y = W x + sum_g s_g M_g delta_g(x)                      every layer on the picture's grid
    a = (1 - sum_g M_g) Att(q, K, V) + sum_g M_g Att(q, K_g, V_g)      attention to the text

K_g and V_g are made of a context of their own: the LoRA's part of the text encoder acts there only,
and in region g the words of the other LoRAs are hidden. Rows of the negative prompt have the masks
of their picture, with contexts of that prompt.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from ..concepts.concept import Diff
from ..host.inference import usable
from ..host.ports import (
    AttentionCall,
    AttentionKind,
    AttentionSite,
    ForwardInfo,
    LayerSite,
    Rows,
    UNetEdit,
    UNetSites,
)
from ..samplers.masks import check_aspect
from .context_rows import info_of_others, repeats_rows
from .lag_masks import summed_attention
from .local_finding import OnMasks, RunMasks
from .local_gates import Gate, gate_of
from .local_layers import added, added_bias, is_convolution
from .local_lora import LocalLora, Part
from .local_masks import finding_sites
from .local_rows import LocalRows
from .local_schedule import Schedule
from .local_stacks import FactorStack, LocalLayers
from .local_weights import RowWeights

log = logging.getLogger("conceptloom")

REST = ""  # key of the context that everything outside of painted masks reads


class LocalEdit(UNetEdit):
    """Applies LoRAs, each in its own place.

    Args:
        loras: of `joined`, in that order.
        layers: what they add, in the same order.
        times: timesteps of the sampling run; None for single passes.
        last_t: of the model's noise path.
        on_masks: is shown the masks of a run.
    """

    def __init__(
        self,
        loras: Sequence[LocalLora],
        layers: LocalLayers,
        times: Sequence[float] | None = None,
        last_t: float = 999,
        on_masks: OnMasks | None = None,
    ) -> None:
        self._loras, self._layers = tuple(loras), layers
        self._masks = RunMasks(self._loras, Schedule(times, last_t), on_masks)
        self._rows: LocalRows | None = None
        self._active: tuple[int, ...] = ()  # LoRAs at work in this pass
        self._known: dict[object, LocalRows] = {}
        self._others: dict[int, LocalRows] = {}  # of this pass: rows that other packs repeat
        self._own: dict[tuple[Any, ...], tuple[Tensor, Tensor]] = {}
        self._reads_others = False  # prompts that other packs bring during the pass
        self._weights = RowWeights()
        self._wanted: dict[object, list[LayerSite]] = {}
        self._watched: set[str] = set()
        self._skipped: set[str] = set()

    def begin(self, info: ForwardInfo) -> None:
        height, width = info.latent_shape[-2:]
        timestep = float(info.timesteps.flatten()[0])
        if self._masks.begin(timestep, (info.n_pictures, height, width)):  # a run of its own
            self._known.clear()
            self._own.clear()
            self._weights.forget()
        self._active = tuple(g for g in range(len(self._loras)) if self._masks.active(g))
        key = (
            info.prompts, info.pictures, info.conditional, info.context_length, info.encoded,
            info.part,
        )  # fmt: skip
        if key not in self._known:
            for lora in self._loras:
                if lora.mask is not None:
                    size = lora.mask.shape[-2], lora.mask.shape[-1]
                    check_aspect(size, (height, width), " latents")
            self._known[key] = LocalRows(self._loras, info)
        self._rows = self._known[key]
        self._reads_others = info.read_context is not None
        self._weights.begin(self._rows, self._active, same_pass=self._masks.same_pass)

    def end(self) -> None:
        self._masks.end()
        self._rows = None
        if others := set(self._others.values()):  # their contexts may differ in the next pass
            self._own = {place: own for place, own in self._own.items() if place[2] not in others}
            self._others.clear()

    def wanted_layers(self, sites: UNetSites) -> Iterable[LayerSite]:
        if not self._active:
            return []
        if id(sites) not in self._wanted:  # the same ones for as long as the edit lives
            self._wanted[id(sites)] = [
                site
                for site in sites.layers
                if site.rows is not Rows.TEXT and self._layers.touches(site)
            ]
        return self._wanted[id(sites)]

    def wanted_attended(self, sites: UNetSites) -> Iterable[AttentionSite]:
        watched = finding_sites(sites) if self._masks.is_finding else []
        self._watched = {site.name for site in watched}
        if self._active:
            return [site for site in sites.attentions if site.kind is AttentionKind.CROSS]
        has_words = self._rows is not None and self._rows.holds_words
        return watched if has_words or self._reads_others else []

    # layers on the picture's grid

    def layer(
        self, site: LayerSite, inputs: Tensor, output: Tensor, info: ForwardInfo
    ) -> Tensor | None:
        if site.rows is Rows.WHOLE:
            return self._on_whole(site, inputs, output, info)
        grid = self._grid(site, inputs, output, info)
        if grid is None:
            return None
        stack = self._layers.stack(site)
        if stack is not None:
            output = self._gate(site, stack, inputs, output, grid).add(inputs, output)
        if not self._layers.has_single(site):
            return output
        for g, (form, factor) in self._working(site.weight):
            masked = self._masked(g, grid)
            output = output + factor * added(form, site.module, inputs, masked)
        for g, (form, factor) in self._working(site.bias):
            assert isinstance(form, Diff)
            output = output + factor * added_bias(form, site.module, output, self._masked(g, grid))
        return output

    def _grid(
        self, site: LayerSite, inputs: Tensor, output: Tensor, info: ForwardInfo
    ) -> tuple[int, int] | None:
        """Of a layer's output; None where another pack has made it something else than a grid."""
        if output.ndim == 4:
            return output.shape[-2], output.shape[-1]
        grid = info.grid(site)
        is_known = len(output) == info.latent_shape[0] or repeats_rows(info, len(output))
        if is_known and output.shape[1] == grid[0] * grid[1]:
            return grid
        if not self._skipped:
            log.warning(
                "Localised LoRAs are left out at %s and the like: another node changes how many "
                "positions these layers see (ToMe, HyperTile).",
                site.name,
            )
        self._skipped.add(site.name)
        return None

    def _working(self, name: str) -> list[tuple[int, Part]]:
        """Changes that are not stacked, of LoRAs that are at work."""
        return [(g, part) for g, part in self._layers.single(name) if g in self._active]

    def _gate(
        self, site: LayerSite, stack: FactorStack, inputs: Tensor, output: Tensor,
        grid: tuple[int, int],
    ) -> Gate:  # fmt: skip
        masks = self._masks.masks(inputs.device)
        gate = self._weights.gate(site, masks, inputs, output)
        if gate is None:
            on_planes = is_convolution(site.module)
            weights, cells = self._weights.by_factor(
                masks, grid, inputs, stack, on_planes=on_planes
            )
            gate = gate_of(site.module, stack, weights, cells, inputs, output)
            self._weights.keep_gate(site, gate)
        return gate

    def _on_whole(
        self, site: LayerSite, inputs: Tensor, output: Tensor, info: ForwardInfo
    ) -> Tensor:
        """A layer with one vector for the picture gets one for each position: [B, C, h, w]."""
        grid = info.grid(site)
        total = output[..., None, None]
        for name in (site.weight, site.bias):
            for g, (form, factor) in self._working(name):
                change = (
                    added(form, site.module, inputs)
                    if name.endswith("weight")
                    else form.delta(output.shape[1:]).to(output).expand_as(output)
                )
                mask = self._row_weights(grid, inputs)[:, g : g + 1]
                total = total + factor * change[..., None, None] * mask
        return total

    def _masked(self, g: int, grid: tuple[int, int]) -> Any:
        def masked(tensor: Tensor) -> Tensor:
            mask = self._row_weights(grid, tensor)[:, g]
            return tensor * (mask[:, None] if tensor.ndim == 4 else mask.flatten(1)[..., None])

        return masked

    def _row_weights(self, grid: tuple[int, int], like: Tensor) -> Tensor:
        """What each row takes of each LoRA, [B, G, h, w] in the precision of the layer."""
        return self._weights.by_lora(self._masks.masks(like.device), grid, like, len(like))

    # attention to the text

    def attended(self, call: AttentionCall) -> Tensor | None:
        grid, own = call.info.grid(call.site), self._rows
        rows = own if len(call.query) == call.info.latent_shape[0] else self._rows_of_others(call)
        if rows is None or call.query.shape[2] != grid[0] * grid[1]:
            return None
        self._rows = rows
        try:
            return self._mixed(call, grid)
        finally:
            self._rows = own

    def _rows_of_others(self, call: AttentionCall) -> LocalRows | None:
        """Rows of a pack that attends to prompts of its own; None where it does something else."""
        n_rows = len(call.query)
        if not repeats_rows(call.info, n_rows) or len(call.context) != n_rows:
            return None
        if n_rows not in self._others:
            self._others[n_rows] = LocalRows(self._loras, info_of_others(call))
        return self._others[n_rows]

    def _mixed(self, call: AttentionCall, grid: tuple[int, int]) -> Tensor | None:
        """What the regions of the rows at hand read, each from its own text."""
        rows = self._rows
        assert rows is not None
        if self._masks.is_finding and rows.holds_words and call.site.name in self._watched:
            self._watch(call, grid)
        active = self._active
        if not active:
            return None
        masks, context = self._masks.masks(call.output.device), call.context
        regions = self._weights.regions(masks, grid, call.output)
        output = regions.rest * self._of_rest(call, context)
        for g, region in regions.by_lora:
            hidden = rows.hidden(g, call.key.shape[2], call.query.device)
            cells, query = region.cells, call.query
            if cells is None:
                own = self._attend(call, query, context, g, hidden)
                output += own * region.weights
            else:
                own = self._attend(call, query.index_select(2, cells), context, g, hidden)
                output.index_add_(1, cells, own * region.weights)
        return output

    def _watch(self, call: AttentionCall, grid: tuple[int, int]) -> None:
        rows = self._rows
        assert rows is not None
        flat = [t[rows.with_words].transpose(1, 2).flatten(2) for t in (call.query, call.key)]
        n_keys, device = call.key.shape[2], call.query.device
        content = call.info.content(n_keys, device)
        content = content if content is None else content[rows.with_words]
        chosen = rows.chosen(n_keys, device)
        attention = summed_attention(flat[0], flat[1], call.site.heads, chosen, content)
        self._masks.watch(rows.by_picture(attention), grid)

    def _of_rest(self, call: AttentionCall, context: Tensor) -> Tensor:
        """Outside of every region: the host's own, or that of a prompt without the passages."""
        rows = self._rows
        assert rows is not None
        if rows.has_context(REST):
            return self._attend(call, call.query, context, None, None)
        hidden = None
        if call.info.text.padded:  # its zeros stay readable, so that every row has a key
            hidden = rows.hidden_passages(call.key.shape[2], call.query.device)
        if hidden is None:
            return call.output
        return self._attend(call, call.query, context, None, hidden)

    def _attend(
        self, call: AttentionCall, query: Tensor, context: Tensor, g: int | None,
        hidden: Tensor | None,
    ) -> Tensor:  # fmt: skip
        """Attention of some positions to one region's own text, [B, N, C]; None is the rest."""
        rows = self._rows
        assert rows is not None
        key = REST if g is None else self._loras[g].key
        place = (call.site.name, key, rows, context.dtype, context.device)
        if place not in self._own:
            own = rows.own_context(key, context)
            self._own[place] = (
                call.site.keys(self._projected(call.site.key, g, own)),
                call.site.split(self._projected(call.site.value, g, own)),
            )
        keys, values = (rows.spread(usable(t)) for t in self._own[place])
        attended = F.scaled_dot_product_attention(
            query, keys.to(query), values.to(query), attn_mask=hidden
        )
        return attended.transpose(1, 2).flatten(2)

    def _projected(self, site: LayerSite, g: int | None, context: Tensor) -> Tensor:
        """Keys or values of a context with one LoRA's change, [U, K, C]."""
        module: Any = site.module
        output = module(context)
        weight = self._layers.of(site.weight, g) if g is not None else None
        if weight is not None:
            output = output + weight[1] * added(weight[0], module, context)
        bias = self._layers.of(site.bias, g) if g is not None else None
        if bias is not None and isinstance(bias[0], Diff):
            output = output + bias[1] * added_bias(bias[0], module, output)
        return output
