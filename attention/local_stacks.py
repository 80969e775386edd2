"""What all localised LoRAs of a MODEL add, laid out by layer and ready to be multiplied."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from ..concepts.changes import Diff, Kronecker, LowRank
from ..host.ports import LayerSite, Rows, UNetSites
from .local_layers import Applied, down_of
from .local_lora import Part

Keep = Callable[[Tensor], Tensor]  # in the precision and the place where it is to lie


@dataclass(frozen=True, slots=True, eq=False)
class FactorStack:
    """Low-rank changes of one layer side by side."""

    up: Tensor  # [out, R], strengths in it
    down: Tensor  # [R, in, ...] as the layer's own weight
    owner: tuple[int, ...]  # R numbers of LoRAs


class LocalLayers:
    """Changes by layer.

    Args:
        sites: of the UNet.
        parts: for each LoRA, canonical weight name -> what it adds.
        keep: is called for every tensor that a pass will multiply with.

    Attributes:
        unplaced: weights that have no place in the picture, so their changes are left out.
    """

    def __init__(self, sites: UNetSites, parts: Sequence[Mapping[str, Part]], keep: Keep) -> None:
        self.n_loras = len(parts)
        self._stacks: dict[str, FactorStack] = {}
        self._single: dict[str, list[tuple[int, Part]]] = {}
        self._with_single: set[str] = set()
        placed: set[str] = set()
        for site in sites.layers:
            names = (site.weight, site.bias)
            placed.update(names)
            for name in names:
                there = [(g, one[name]) for g, one in enumerate(parts) if name in one]
                stacked = [entry for entry in there if name == site.weight and _stacks(site, entry)]
                if stacked:
                    self._stacks[site.name] = _stack(site, stacked, keep)
                rest = [entry for entry in there if entry not in stacked]
                if rest:
                    self._with_single.add(site.name)
                    self._single[name] = [(g, (_kept(f, keep), s)) for g, (f, s) in rest]
        self.unplaced = sorted({name for one in parts for name in one} - placed)

    def touches(self, site: LayerSite) -> bool:
        """Whether any LoRA changes a layer."""
        return site.name in self._stacks or site.name in self._with_single

    def has_single(self, site: LayerSite) -> bool:
        """Whether any LoRA changes a layer in a way that is not stacked."""
        return site.name in self._with_single

    def stack(self, site: LayerSite) -> FactorStack | None:
        """Low-rank changes of a layer on the picture's grid."""
        return self._stacks.get(site.name)

    def single(self, name: str) -> Sequence[tuple[int, Part]]:
        """Number of the LoRA and change, of a weight or bias by its canonical name."""
        return self._single.get(name, ())

    def of(self, name: str, g: int) -> Part | None:
        """The change of one LoRA, of a weight that is not stacked."""
        return next((part for owner, part in self.single(name) if owner == g), None)

    @property
    def dense_bytes(self) -> int:
        """What whole differences of weights take, where no narrower form is exact."""
        return sum(
            form.tensor.numel() * form.tensor.element_size()
            for entries in self._single.values()
            for _, (form, _) in entries
            if isinstance(form, Diff) and form.tensor.ndim > 1
        )

    def tensors(self) -> Iterator[Tensor]:
        """All that lie where `keep` put them."""
        for stack in self._stacks.values():
            yield from (stack.up, stack.down)
        for entries in self._single.values():
            for _, (form, _) in entries:
                yield from form.tensors


def _stacks(site: LayerSite, entry: tuple[int, Part]) -> bool:
    is_norm = isinstance(site.module, nn.GroupNorm | nn.LayerNorm)
    return site.rows in (Rows.GRID, Rows.JOINT) and isinstance(entry[1][0], LowRank) and not is_norm


def _stack(site: LayerSite, entries: Sequence[tuple[int, Part]], keep: Keep) -> FactorStack:
    forms = [(g, form, s) for g, (form, s) in entries if isinstance(form, LowRank)]
    up = torch.cat([s * form.scale * form.up for _, form, s in forms], dim=1)
    down = torch.cat([down_of(form, site.module) for _, form, _ in forms])
    owner = tuple(g for g, form, _ in forms for _ in range(form.rank))
    return FactorStack(keep(up), keep(down.contiguous()), owner)


def _kept(form: Applied, keep: Keep) -> Applied:
    if isinstance(form, LowRank):
        return replace(form, up=keep(form.up), down=keep(form.down))
    if isinstance(form, Kronecker):
        return replace(form, left=keep(form.left), right=keep(form.right))
    return replace(form, tensor=keep(form.tensor))
