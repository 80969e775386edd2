"""The region feature fuser: several concepts on one query, each in its own region.

Concept Weaver (Kwon et al. 2024, arXiv 2404.03913), Step 5:

    h_fuse = (1 + lambda) [ sum_i M_i h_i + M_bg h_bg ] - lambda h_base

    h_i     cross-attention of concept i: its own K and V weights, its own prompt p_+i
    h_base  the base model's own, with the prompt of the pass

Concepts that change only K and V share the query, so one conditional pass serves any number of
them: their keys and values are projected once per run, and each is used only where its mask is
not zero. Mixing before or after the shared output projection is the same,
because the weights sum to 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from ..concepts.changes import Change, Diff
from ..host.inference import usable
from ..host.ports import (
    AttentionCall,
    AttentionSite,
    ForwardInfo,
    LayerSite,
    UNetEdit,
    UNetSites,
)
from ..host.roles import Role
from .local_layers import added_linear
from .regions import at_grid


@dataclass(frozen=True, slots=True, eq=False)
class RegionSource:
    """Prompt and weight changes of one region.

    Attributes:
        context: [1, K, width] the encoded prompt p_+i.
        changes: canonical weight name -> the concept's change. Those of keys and values of the text
            and of output projections work here, the others in `RegionLayers`.
    """

    context: Tensor
    changes: Mapping[str, Change] = field(default_factory=dict[str, Change])


@dataclass(frozen=True, slots=True, eq=False)
class _Share:
    """One region on one grid of N cells."""

    weight: Tensor  # [1, n, 1] of its cells
    cells: Tensor | None  # [n] where it is not zero; None for everywhere


class RegionFusion(UNetEdit):
    """Fuses the rows with a prompt; rows of the negative prompt use the base model.

    Args:
        sources: one per region, the background's last.
        masks: [N + 1, H, W] in the same order, see `attention.regions`.
        suppression: lambda, 0 or more; 0 mixes only.
    """

    def __init__(
        self, sources: Sequence[RegionSource], masks: Tensor, suppression: float = 0.0
    ) -> None:
        self._sources, self._masks = list(sources), masks
        self._suppression = suppression
        self._shares: dict[tuple[tuple[int, int], torch.device], list[_Share]] = {}
        self._projected: dict[str, list[tuple[Tensor, Tensor] | None]] = {}

    def wanted_attentions(self, sites: UNetSites) -> list[AttentionSite]:
        return sites.cross_attentions

    def wanted_layers(self, sites: UNetSites) -> list[LayerSite]:
        changed_here = {name for source in self._sources for name in source.changes}
        own = {site.out.name for site in sites.cross_attentions}  # see `attention`
        projections = (site for site in sites.layers if Role.PROJ_OUT in site.roles)
        return [s for s in projections if s.weight in changed_here and s.name not in own]

    def attention(self, call: AttentionCall) -> Tensor | None:
        rows = _prompted(call.info)
        if not rows:
            return None
        every = len(rows) == call.query.shape[0]
        base = call.output if every else call.output[rows]
        mixed = self._mixed(call, call.query if every else call.query[rows])
        fused = call.site.out.module(mixed).to(base.dtype)
        fused = self._with_out_changes(call, mixed, fused)
        # (1 + lambda) fused - lambda base, written so that equal features stay bit for bit
        fused = fused + self._suppression * (fused - base)
        if every:
            return fused
        output = call.output.clone()
        output[rows] = fused
        return output

    def _with_out_changes(self, call: AttentionCall, mixed: Tensor, fused: Tensor) -> Tensor:
        """Add the sources' changes of the attention's output projection, each under its mask."""
        weight, bias = call.site.out.weight, call.site.out.bias
        if not any({weight, bias} & source.changes.keys() for source in self._sources):
            return fused
        fused = fused.clone()
        shares = self._shares_at(call.info.grid(call.site), mixed.device)
        for source, share in zip(self._sources, shares, strict=True):
            if not share.weight.numel():
                continue
            cells = slice(None) if share.cells is None else share.cells
            part = share.weight.to(fused.dtype)
            if change := source.changes.get(weight):
                fused[:, cells] += added_linear(change, mixed[:, cells]) * part
            if isinstance(shift := source.changes.get(bias), Diff):
                fused[:, cells] += shift.tensor.to(fused) * part
        return fused

    def _mixed(self, call: AttentionCall, query: Tensor) -> Tensor:
        """sum_i M_i h_i with the background among them, [B, N, C]; heads are joined again."""
        total = torch.zeros_like(rearrange(query, "b a n d -> b n (a d)"))
        shares = self._shares_at(call.info.grid(call.site), query.device)
        for share, pair in zip(shares, self._keys_and_values(call, shares), strict=True):
            if pair is None:
                continue
            seen = query if share.cells is None else query[:, :, share.cells]
            key, value = (t.expand(query.shape[0], -1, -1, -1) for t in pair)
            attended = F.scaled_dot_product_attention(seen, key, value)
            attended = rearrange(attended, "b a n d -> b n (a d)") * share.weight.to(query.dtype)
            if share.cells is None:
                total = total + attended
            else:
                total.index_add_(1, share.cells, attended)
        return total

    def _keys_and_values(
        self, call: AttentionCall, shares: Sequence[_Share]
    ) -> list[tuple[Tensor, Tensor] | None]:
        """[1, heads, K, d] each; None where a region has no cell. They do not change in a run."""
        place = call.site.name
        if place not in self._projected:
            self._projected[place] = [
                self._projections(call, source) if share.weight.numel() else None
                for source, share in zip(self._sources, shares, strict=True)
            ]
        return self._projected[place]

    def _projections(self, call: AttentionCall, source: RegionSource) -> tuple[Tensor, Tensor]:
        context = source.context.to(call.key)
        projections: list[Tensor] = []
        for layer in (call.site.key, call.site.value):
            output = layer.module(context)
            if layer.weight in source.changes:
                output = output + added_linear(source.changes[layer.weight], context)
            projections.append(output)
        return call.site.keys(projections[0]), call.site.split(projections[1])

    def layer(
        self, site: LayerSite, inputs: Tensor, output: Tensor, info: ForwardInfo
    ) -> Tensor | None:
        """Residuals on output projections, each under its region's mask."""
        rows = _prompted(info)
        if not rows:
            return None
        tokens = inputs[rows] if inputs.ndim == 3 else inputs[rows].flatten(2).transpose(1, 2)
        width = output.shape[1] if output.ndim == 4 else output.shape[2]
        added = torch.zeros(*tokens.shape[:2], width, dtype=output.dtype, device=output.device)
        for source, share in zip(
            self._sources, self._shares_at(info.grid(site), inputs.device), strict=True
        ):
            change = source.changes.get(site.weight)
            if change is None or not share.weight.numel():
                continue
            cells = slice(None) if share.cells is None else share.cells
            weight = share.weight.to(output.dtype)
            added[:, cells] += added_linear(change, tokens[:, cells]) * weight
        if output.ndim == 4:
            added = added.transpose(1, 2).unflatten(2, output.shape[-2:])
        result = output.clone()
        result[rows] += added
        return result

    def _shares_at(self, grid: tuple[int, int], device: torch.device) -> list[_Share]:
        if (grid, device) not in self._shares:
            planes = at_grid(usable(self._masks.cpu()), grid).flatten(1)
            self._shares[grid, device] = [_share(plane, device) for plane in planes]
        return self._shares[grid, device]


def _share(plane: Tensor, device: torch.device) -> _Share:
    if bool((plane > 0).all()):
        return _Share(plane[None, :, None].to(device), None)
    cells = plane.nonzero()[:, 0]
    return _Share(plane[cells][None, :, None].to(device), cells.to(device))


def _prompted(info: ForwardInfo) -> list[int]:
    return [row for row, has_prompt in enumerate(info.conditional) if has_prompt]
