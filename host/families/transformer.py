"""Sites of diffusion transformers: blocks of one width, all on one grid."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ..ports import (
    AttentionSite,
    FeatureSite,
    LayerSite,
    Place,
    Rows,
    TransformerSite,
    UNetSites,
)
from .family import TRANSFORMER, AttentionPart, Family


def sites_of(family: Family, network: Any, *, in_diffusers: bool) -> UNetSites:
    """Every site of a network.

    Args:
        in_diffusers: its modules have diffusers' names, and its norms see heads before positions.
    """
    view = _View(family, network, in_diffusers)
    blocks = [view.block(number) for number in range(view.n_blocks)]
    outer = list(view.outer_layers())
    layers: list[LayerSite] = []
    attentions: list[AttentionSite] = []
    features: list[FeatureSite] = []
    for block in blocks:
        inner = {site.name: site for site in view.layers(block)}
        layers += inner.values()
        attentions += view.attentions(block, inner)
        features += (
            FeatureSite(kind, block, 0, inner[f"{block.name}.{part}"])
            for kind, part in family.features.items()
        )
    first, last = (round(share * len(blocks)) for share in family.finders)
    return UNetSites(
        tuple(blocks),
        (),
        tuple(attentions),
        (*layers, *outer),
        tuple(features),
        family.text,
        network=TRANSFORMER,
        family=family.name,
        finders=tuple(blocks[first : max(last, first + 1)]),
    )


class _View:
    """A network by canonical names."""

    def __init__(self, family: Family, network: Any, in_diffusers: bool) -> None:
        self._family, self._network, self._in_diffusers = family, network, in_diffusers
        self._blocks = network.get_submodule(family.blocks[in_diffusers])
        self.n_blocks = len(self._blocks)

    def block(self, number: int) -> TransformerSite:
        name, module = f"{self._family.blocks[0]}.{number}", self._blocks[number]
        attention = next(iter(self._family.attentions.values()))
        heads = self._heads(self._owner(f"{name}.{attention.query}"))
        width = self._module(f"{name}.{attention.out}").out_features
        downsample = self._family.patch
        return TransformerSite(name, Place.FLAT, number, downsample, width, heads, 1, module)

    def layers(self, block: TransformerSite) -> Iterator[LayerSite]:
        owned = {
            layer
            for a in self._family.attentions.values()
            for layer in (a.query, a.key, a.value, a.out)
        }
        for name, part in self._family.parts.items():
            if part.rows is not None:
                path = f"{block.name}.{name}"
                owner = self._owner(path) if name in owned else None
                yield self._site(path, part.rows, frozenset(part.roles), block, owner)

    def outer_layers(self) -> Iterator[LayerSite]:
        for path, part in self._family.outer.items():
            if part.rows is not None:
                yield self._site(path, part.rows, frozenset(part.roles), None, None)

    def _site(
        self, path: str, rows: Rows, roles: Any, block: TransformerSite | None, owner: Any
    ) -> LayerSite:
        downsample, module = self._family.patch, self._module(path)
        return LayerSite(path, rows, downsample, module, roles, block, owner, network=TRANSFORMER)

    def attentions(
        self, block: TransformerSite, layers: dict[str, LayerSite]
    ) -> Iterator[AttentionSite]:
        for name, part in self._family.attentions.items():
            q, k, v, out = (
                layers[f"{block.name}.{layer}"]
                for layer in (part.query, part.key, part.value, part.out)
            )
            norms = self._norms(block.name, part)
            yield AttentionSite(
                f"{block.name}.{name}", part.kind, block, 0, block.heads, q, k, v, out,
                q.attention, *norms, heads_axis=1 if self._in_diffusers else 2,
            )  # fmt: skip

    def _norms(self, block: str, part: AttentionPart) -> tuple[Any, Any]:
        names = (part.query_norm, part.key_norm)
        query, key = (self._module(f"{block}.{name}") if name else None for name in names)
        return query, key

    def _module(self, path: str) -> Any:
        name = self._family.diffusers_name(path) if self._in_diffusers else path
        return self._network.get_submodule(name)

    def _owner(self, path: str) -> Any:
        """The attention that a layer is a part of."""
        name = self._family.diffusers_name(path) if self._in_diffusers else path
        outer = name.rpartition(".to_")[0] or name.rpartition(".")[0]
        return self._network.get_submodule(outer)

    def _heads(self, attention: Any) -> int:
        return getattr(attention, self._family.heads[self._in_diffusers])
