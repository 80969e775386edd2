"""Changes of any layer, each in its own region: what a region's concept adds to the base model.

    y = W x + sum_i M_i delta_i(x)

For rows with a prompt; rows of the negative prompt stay the base model's. The attention to the
text is the business of `attention.fusion`, which gives each region keys and values of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from ..concepts.changes import Change, Diff
from ..host.ports import ForwardInfo, LayerSite, Rows, UNetEdit, UNetSites
from ..host.roles import Role
from .local_layers import Masked, added, added_bias
from .regions import at_grid


class RegionLayers(UNetEdit):
    """Adds the changes of several concepts under the masks of their regions.

    Args:
        changes: one for each region, canonical name of a weight or bias -> change.
        masks: [N + 1, H, W] in the same order, see `attention.regions`.
    """

    def __init__(self, changes: Sequence[Mapping[str, Change]], masks: Tensor) -> None:
        self._changes, self._masks = tuple(changes), masks
        self._planes: dict[object, Tensor] = {}
        self._rows: Tensor | None = None  # [B] 1 for rows with a prompt

    def begin(self, info: ForwardInfo) -> None:
        self._rows = torch.tensor(info.conditional, device=info.timesteps.device)

    def end(self) -> None:
        self._rows = None

    def wanted_layers(self, sites: UNetSites) -> Iterable[LayerSite]:
        of_text = {
            layer.name
            for site in sites.cross_attentions
            for layer in (site.key, site.value, site.out)
        }
        names = {name for one in self._changes for name in one}
        return [
            site
            for site in sites.layers
            if site.name not in of_text
            and (site.bias in names or (site.weight in names and not _is_fused(site)))
        ]

    def layer(
        self, site: LayerSite, inputs: Tensor, output: Tensor, info: ForwardInfo
    ) -> Tensor | None:
        grid, is_whole = info.grid(site), site.rows is Rows.WHOLE
        total = output[..., None, None] if is_whole else output
        for i, changes in enumerate(self._changes):
            masked = self._masked(i, grid)
            change = None if _is_fused(site) else changes.get(site.weight)
            if change is not None:
                if is_whole:  # one vector for the picture becomes one for each position
                    total = total + masked(_spread(added(change, site.module, inputs), grid))
                else:
                    total = total + added(change, site.module, inputs, masked)
            bias = changes.get(site.bias)
            if isinstance(bias, Diff):
                if is_whole:
                    vector = bias.tensor.to(output).expand_as(output)
                    total = total + masked(_spread(vector, grid))
                else:
                    total = total + added_bias(bias, site.module, output, masked)
        return total

    def _masked(self, i: int, grid: tuple[int, int]) -> Masked:
        rows = self._rows
        assert rows is not None

        def masked(tensor: Tensor) -> Tensor:
            plane = self._plane(i, grid, tensor)
            weights = rows.to(tensor).view(-1, *[1] * (tensor.ndim - 1))
            return tensor * weights * (plane if tensor.ndim == 4 else plane.flatten()[:, None])

        return masked

    def _plane(self, i: int, grid: tuple[int, int], like: Tensor) -> Tensor:
        key = (i, grid, like.device, like.dtype)
        if key not in self._planes:
            self._planes[key] = at_grid(self._masks, grid)[i].to(like)
        return self._planes[key]


def _is_fused(site: LayerSite) -> bool:
    """Whether `RegionFusion` sees to the weight of a layer."""
    return Role.PROJ_OUT in site.roles


def _spread(vector: Tensor, grid: tuple[int, int]) -> Tensor:
    """[B, C] at every position, [B, C, h, w]."""
    return vector[..., None, None].expand(*vector.shape, *grid)
