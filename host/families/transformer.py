"""Sites of diffusion transformers: blocks of one width, all on one grid."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from torch import nn

from ..joint import Handler, JointSeam
from ..ports import (
    AttentionSite,
    FeatureSite,
    LayerSite,
    Place,
    TransformerSite,
    UNetSites,
)
from .family import TRANSFORMER, AttentionPart, Family, Part

Tap = Callable[[nn.Module, Handler], Iterable[Any]]  # see `joint.JointSeam`


def no_tap(module: nn.Module, handler: Handler) -> Iterable[Any]:
    """Of a family without joint attention."""
    return ()


def sites_of(
    family: Family, network: Any, *, in_diffusers: bool, tap: Tap = no_tap,
    around: Callable[[], AbstractContextManager[Any]] = nullcontext,
) -> UNetSites:  # fmt: skip
    """Every site of a network.

    Args:
        in_diffusers: its modules have diffusers' names, and its norms see heads before positions.
        tap, around: the host's way to see q, k and v of a joint attention, see `JointSeam`.
    """
    view = _View(family, network, in_diffusers)
    blocks = [view.block(number) for number in range(view.n_blocks)]
    outer = [*view.listed_layers(), *view.outer_layers()]
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
        located_at=family.located_at,
        joint=view.seam(tap, around),
        kept_by_block=family.kept_by_block,
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
            path = f"{block.name}.{name}"
            yield from self._site(path, part, block, self._owner(path) if name in owned else None)

    def outer_layers(self) -> Iterator[LayerSite]:
        for path, part in self._family.outer.items():
            yield from self._site(path, part)

    def listed_layers(self) -> Iterator[LayerSite]:
        """Those of blocks beside the main ones."""
        for name, blocks in self._family.lists.items():
            path = blocks.diffusers if self._in_diffusers else name
            for number in range(len(self._network.get_submodule(path))):
                for inner, part in blocks.parts.items():
                    yield from self._site(f"{name}.{number}.{inner}", part)

    def _site(
        self, path: str, part: Part, block: TransformerSite | None = None, owner: Any = None
    ) -> Iterator[LayerSite]:
        if part.rows is not None:
            yield LayerSite(
                path, part.rows, self._family.patch, self._module(path), frozenset(part.roles),
                block, owner, network=TRANSFORMER, part=self._part(path),
            )  # fmt: skip

    def _part(self, path: str) -> slice | None:
        """Rows of a module that holds several layers; None where it holds one."""
        name, number = self._family.comfy_name(path)
        if self._in_diffusers or number is None:
            return None
        return parts_of_fused(self._network.get_submodule(name.rpartition(".")[0]))[number]

    def seam(self, tap: Tap, around: Callable[[], AbstractContextManager[Any]]) -> JointSeam | None:
        plan = self._family.joint
        if plan is None:
            return None
        which = int(self._in_diffusers)
        stages = tuple(tuple(self._stretch(*ends)) for ends in plan.text_stages[which])
        width = math.prod(self._module(name).in_features for name in plan.context)
        return JointSeam(
            plan.order[which], tuple(self._blocks), stages, tap, plan.rope_dim[which],
            plan.mask_at[which], width, self._family.patch,
            (lambda: getattr(self._network, plan.filler)) if plan.filler else None, around,
        )  # fmt: skip

    def _stretch(self, first: str, last: str) -> list[nn.Module]:
        """Modules from the first to the last; "-1" is the last one of a list."""
        outer, _, name = last.rpartition(".")
        if name == "-1":
            return list(self._network.get_submodule(outer).children())
        return [self._network.get_submodule(path) for path in dict.fromkeys((first, last))]

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
        if self._in_diffusers:
            return self._network.get_submodule(self._family.diffusers_name(path))
        return self._network.get_submodule(self._family.comfy_name(path)[0])

    def _owner(self, path: str) -> Any:
        """The attention that a layer is a part of."""
        name = self._family.diffusers_name(path) if self._in_diffusers else path
        outer = name.rpartition(".to_")[0] or name.rpartition(".")[0]
        return self._network.get_submodule(outer)

    def _heads(self, attention: Any) -> int:
        return getattr(attention, self._family.heads[self._in_diffusers])


def parts_of_fused(attention: Any) -> tuple[slice, slice, slice]:
    """Rows of q, k and v in ComfyUI's layer that holds all three."""
    query = attention.n_local_heads * attention.head_dim
    key = attention.n_local_kv_heads * attention.head_dim
    return slice(0, query), slice(query, query + key), slice(query + key, query + 2 * key)
