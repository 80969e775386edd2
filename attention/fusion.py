"""The region feature fuser: several concepts on one query, each in its own region.

Concept Weaver (Kwon et al. 2024, arXiv 2404.03913), Step 5:

    h_fuse = (1 + lambda) [ sum_i M_i h_i + M_bg h_bg ] - lambda h_base

    h_i     cross-attention of concept i: its own K and V weights, its own prompt p_+i
    h_base  the base model's own, with the prompt of the pass

Concepts that change only K and V share the query, so one conditional pass serves any number of
them: their keys and values are projected once and kept for the whole run, and each is attended to
only where its mask is not zero. Mixing before or after the shared output projection is the same,
for the weights sum to 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ..concepts.concept import Change, Diff
from ..host.inference import usable
from ..host.ports import CrossAttentionCall, ForwardInfo, TransformerSite, UNetEdit
from ..host.roles import Role, is_matrix, roles_of
from .regions import at_grid


def is_fusible(weight: str) -> bool:
    """Whether a change of this weight can work in one region of a pass alone."""
    return is_matrix(weight) and bool(roles_of(weight) & {Role.CROSS_KV, Role.PROJ_OUT})


@dataclass(frozen=True, slots=True, eq=False)
class RegionSource:
    """What is drawn in one region.

    Attributes:
        context: [1, K, width] the encoded prompt p_+i.
        changes: canonical weight name -> what the concept adds; of keys and values that are made
            of the text, and of output projections, where the region's mask limits it.
    """

    context: Tensor
    changes: Mapping[str, Change] = field(default_factory=dict[str, Change])


@dataclass(frozen=True, slots=True, eq=False)
class _Share:
    """One region on one grid of N cells."""

    weight: Tensor  # [1, n, 1] of its cells
    cells: Tensor | None  # [n] where it is not zero; None for everywhere


class RegionFusion(UNetEdit):
    """Fuses the rows with a prompt; rows of the negative prompt stay the base model's.

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
        self._projected: dict[tuple[str, int], list[tuple[Tensor, Tensor] | None]] = {}

    def wants_cross_attention(self, site: TransformerSite) -> bool:
        return True

    def wants_projection(self, site: TransformerSite) -> bool:
        return any(_projection_name(site) in source.changes for source in self._sources)

    def cross_attention(self, call: CrossAttentionCall) -> Tensor | None:
        rows = _prompted(call.info)
        if not rows:
            return None
        every = len(rows) == call.query.shape[0]
        query = call.query if every else call.query[rows]
        base = call.output if every else call.output[rows]
        mixed = self._mixed(call, rearrange(query, "b n (a d) -> b a n d", a=call.site.heads))
        fused = _output_projection(call.module, mixed).to(base.dtype)
        # (1 + lambda) fused - lambda base, written so that equal features stay bit for bit
        fused = fused + self._suppression * (fused - base)
        if every:
            return fused
        output = call.output.clone()
        output[rows] = fused
        return output

    def _mixed(self, call: CrossAttentionCall, query: Tensor) -> Tensor:
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
        self, call: CrossAttentionCall, shares: Sequence[_Share]
    ) -> list[tuple[Tensor, Tensor] | None]:
        """[1, heads, K, d] each; None where a region has no cell. They do not change in a run."""
        place = (call.site.name, call.layer)
        if place not in self._projected:
            self._projected[place] = [
                self._projections(call, source) if share.weight.numel() else None
                for source, share in zip(self._sources, shares, strict=True)
            ]
        return self._projected[place]

    def _projections(self, call: CrossAttentionCall, source: RegionSource) -> tuple[Tensor, Tensor]:
        attention: Any = call.module
        context = source.context.to(call.key)
        found: list[Tensor] = []
        for part, layer in (("to_k", attention.to_k), ("to_v", attention.to_v)):
            name = f"unet.{call.site.name}.transformer_blocks.{call.layer}.attn2.{part}.weight"
            output = layer(context)
            if name in source.changes:
                output = output + changed(source.changes[name], context)
            found.append(rearrange(output, "b k (a d) -> b a k d", a=call.site.heads))
        return found[0], found[1]

    def projection(
        self, site: TransformerSite, inputs: Tensor, output: Tensor, info: ForwardInfo
    ) -> Tensor | None:
        """Residuals on `proj_out`, each under its region's mask."""
        rows = _prompted(info)
        if not rows:
            return None
        tokens = inputs[rows] if inputs.ndim == 3 else inputs[rows].flatten(2).transpose(1, 2)
        added = torch.zeros(*tokens.shape[:2], site.width, dtype=output.dtype, device=output.device)
        for source, share in zip(
            self._sources, self._shares_at(info.grid(site), inputs.device), strict=True
        ):
            change = source.changes.get(_projection_name(site))
            if change is None or not share.weight.numel():
                continue
            cells = slice(None) if share.cells is None else share.cells
            added[:, cells] += changed(change, tokens[:, cells]) * share.weight.to(output.dtype)
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


def changed(change: Change, inputs: Tensor) -> Tensor:
    """What a change of a linear layer adds to its output, [..., out]; a 1x1 kernel is one too."""
    if isinstance(change, Diff):
        return F.linear(inputs, usable(change.tensor.flatten(1).to(inputs)))
    return change.apply(inputs)


def _share(plane: Tensor, device: torch.device) -> _Share:
    if bool((plane > 0).all()):
        return _Share(plane[None, :, None].to(device), None)
    cells = plane.nonzero()[:, 0]
    return _Share(plane[cells][None, :, None].to(device), cells.to(device))


def _prompted(info: ForwardInfo) -> list[int]:
    return [row for row, has_prompt in enumerate(info.conditional) if has_prompt]


def _projection_name(site: TransformerSite) -> str:
    return f"unet.{site.name}.proj_out.weight"


def _output_projection(attention: Any, attended: Tensor) -> Tensor:
    """`to_out` on [B, N, C]: a Sequential in ComfyUI, a list in diffusers."""
    if not isinstance(attention.to_out, nn.ModuleList):
        return attention.to_out(attended)
    for layer in attention.to_out:
        attended = layer(attended)
    return attended
