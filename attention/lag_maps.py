"""Records the masks of a LAG run for previews."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from ..host.ports import ForwardInfo, TransformerSite


class LagMaps:
    """Collects masks; pass it to `LagEdit` as `on_masks`.

    Of every block it keeps the newest mask and the mean over all passes, nothing else. A pass with
    a part of the batch counts for the pictures in it.
    """

    def __init__(self) -> None:
        self._newest: dict[str, Tensor] = {}
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, Tensor] = {}  # [P, 1, 1, 1] passes of every picture, on the CPU

    def __call__(self, site: TransformerSite, masks: Tensor, info: ForwardInfo) -> None:
        name, before = site.name, self._sums.get(site.name)
        self._newest[name] = masks
        count = torch.ones(len(masks), 1, 1, 1)
        if info.part is not None:  # parts before are in the masks again, later ones are zeros
            count = torch.zeros_like(count)
            count[list(info.pictures)] = 1
            masks = masks * count.to(masks)
        if before is None or before.shape != masks.shape:  # another size: a pass of its own
            self._sums[name], self._counts[name] = masks.clone(), count
        else:
            self._sums[name] = before + masks
            self._counts[name] = self._counts[name] + count

    def __bool__(self) -> bool:
        return bool(self._newest)

    def blocks(self) -> Mapping[str, Tensor]:
        """Name of a block -> [P, G, h, w] mean over all passes, on the CPU."""
        return {
            name: total.cpu() / self._counts[name].clamp_min(1)
            for name, total in self._sums.items()
        }

    def averaged(self, size: tuple[int, int]) -> Tensor:
        """[P, G, *size] mean over blocks and passes, 0..1, on the CPU."""
        return _mean(self.blocks(), size)

    def newest(self, size: tuple[int, int]) -> Tensor:
        """[P, G, *size] mean over the blocks of the last pass, 0..1, on the CPU."""
        return _mean({name: masks.cpu() for name, masks in self._newest.items()}, size)


def _mean(blocks: Mapping[str, Tensor], size: tuple[int, int]) -> Tensor:
    fitted = [F.interpolate(m, size, mode="bilinear", align_corners=False) for m in blocks.values()]
    return torch.stack(fitted).mean(dim=0).clamp(0, 1)
