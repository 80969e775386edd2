"""An edit that writes down what fires, and a pass to try it on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from conceptloom.host.diffusers import DiffusersHost
from conceptloom.host.ports import (
    AttentionCall,
    AttentionSite,
    CrossAttentionCall,
    ForwardInfo,
    LayerSite,
    ResNetSite,
    TransformerSite,
    UNetEdit,
    UNetSites,
)

from ..tiny_models import noise

POINTS = (
    "cross",
    "cross_key",
    "cross_value",
    "self_query",
    "self_key",
    "projection",
    "resnet",
    "layer",
    "attended",
)


class Everywhere(UNetEdit):
    """Asks for hooks at some points and sites, writes down what fires, and may change it."""

    def __init__(
        self,
        points: tuple[str, ...] = POINTS,
        names: tuple[str, ...] | None = None,
        change: Callable[[Tensor], Tensor | None] = lambda output: None,
    ) -> None:
        self.points, self.names, self.change = points, names, change
        self.fired: list[tuple[str, str, int]] = []
        self.infos: list[ForwardInfo] = []
        self.ended = 0

    def begin(self, info: ForwardInfo) -> None:
        self.infos.append(info)

    def end(self) -> None:
        self.ended += 1

    def _wants(self, point: str, site: TransformerSite | ResNetSite) -> bool:
        return point in self.points and (self.names is None or site.name in self.names)

    def wants_cross_attention(self, site: TransformerSite) -> bool:
        return self._wants("cross", site)

    def wants_cross_projections(self, site: TransformerSite) -> bool:
        return self._wants("cross_key", site) or self._wants("cross_value", site)

    def wants_self_attention(self, site: TransformerSite) -> bool:
        return self._wants("self_query", site) or self._wants("self_key", site)

    def wants_projection(self, site: TransformerSite) -> bool:
        return self._wants("projection", site)

    def wants_resnet(self, site: ResNetSite) -> bool:
        return self._wants("resnet", site)

    def wanted_layers(self, sites: UNetSites) -> list[LayerSite]:
        return [s for s in sites.layers if s.block and self._wants("layer", s.block)]

    def wanted_attended(self, sites: UNetSites) -> list[AttentionSite]:
        return [s for s in sites.attentions if self._wants("attended", s.block)]

    def layer(
        self, site: LayerSite, inputs: Tensor, output: Tensor, info: ForwardInfo
    ) -> Tensor | None:
        return self._fire("layer", site, 0, output)

    def attended(self, call: AttentionCall) -> Tensor | None:
        return self._fire("attended", call.site, call.site.layer, call.output)

    def _fire(self, point: str, site: Any, layer: int, output: Tensor) -> Tensor | None:
        if point not in self.points:
            return None
        self.fired.append((point, site.name, layer))
        return self.change(output)

    def cross_attention(self, call: CrossAttentionCall) -> Tensor | None:
        return self._fire("cross", call.site, call.layer, call.output)

    def cross_key(
        self, site: TransformerSite, layer: int, key: Tensor, info: ForwardInfo
    ) -> Tensor | None:
        return self._fire("cross_key", site, layer, key)

    def cross_value(
        self, site: TransformerSite, layer: int, value: Tensor, info: ForwardInfo
    ) -> Tensor | None:
        return self._fire("cross_value", site, layer, value)

    def self_query(
        self, site: TransformerSite, layer: int, query: Tensor, info: ForwardInfo
    ) -> Tensor | None:
        return self._fire("self_query", site, layer, query)

    def self_key(
        self, site: TransformerSite, layer: int, key: Tensor, info: ForwardInfo
    ) -> Tensor | None:
        return self._fire("self_key", site, layer, key)

    def projection(
        self, site: TransformerSite, inputs: Tensor, output: Tensor, info: ForwardInfo
    ) -> Tensor | None:
        return self._fire("projection", site, 0, output)

    def resnet(self, site: ResNetSite, output: Tensor, info: ForwardInfo) -> Tensor | None:
        return self._fire("resnet", site, 0, output)


def predict(host: DiffusersHost, *edits: UNetEdit, rows: int = 1, **more: Any) -> Tensor:
    prompt = host.encode_prompt("a photo of a cat")
    at = torch.full((rows,), 300)
    with torch.no_grad():
        return host.predict(noise(rows, 4, 16, 16), at, [prompt], edits, **more)
