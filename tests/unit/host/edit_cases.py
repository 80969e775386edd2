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
    Feature,
    ForwardInfo,
    LayerSite,
    Role,
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
        self._layers: dict[LayerSite, tuple[str, str, int]] = {}

    def begin(self, info: ForwardInfo) -> None:
        self.infos.append(info)

    def end(self) -> None:
        self.ended += 1

    def _wants(self, point: str, block: str) -> bool:
        return point in self.points and (self.names is None or block in self.names)

    def wanted_layers(self, sites: UNetSites) -> list[LayerSite]:
        self._layers = points_of(sites)
        wanted = [layer for layer, (point, name, _) in self._layers.items() if point in self.points]
        return [s for s in wanted if s.block and (self.names is None or s.block.name in self.names)]

    def wanted_attended(self, sites: UNetSites) -> list[AttentionSite]:
        return [s for s in sites.attentions if self._wants("attended", s.block.name)]

    def wanted_attentions(self, sites: UNetSites) -> list[AttentionSite]:
        return [s for s in sites.cross_attentions if self._wants("cross", s.block.name)]

    def layer(
        self, site: LayerSite, inputs: Tensor, output: Tensor, info: ForwardInfo
    ) -> Tensor | None:
        return self._fire(*self._layers[site], output)

    def attended(self, call: AttentionCall) -> Tensor | None:
        return self._fire("attended", call.site.name, call.site.layer, call.output)

    def attention(self, call: AttentionCall) -> Tensor | None:
        return self._fire("cross", call.site.block.name, call.site.layer, call.output)

    def _fire(self, point: str, name: str, layer: int, output: Tensor) -> Tensor | None:
        self.fired.append((point, name, layer))
        return self.change(output)


def points_of(sites: UNetSites) -> dict[LayerSite, tuple[str, str, int]]:
    """Layers of blocks in the order of a pass -> the point, what it is called, and the depth."""
    features = {Feature.RESIDUAL: "resnet", Feature.QUERY: "self_query", Feature.KEY: "self_key"}
    points: dict[LayerSite, tuple[str, str, int]] = {
        feature.layer: (features[feature.kind], feature.block.name, feature.depth)
        for feature in sites.features
    }
    for site in sites.cross_attentions:
        points[site.key] = "cross_key", site.block.name, site.layer
        points[site.value] = "cross_value", site.block.name, site.layer
    for layer in sites.layers:
        if layer.block and Role.PROJ_OUT in layer.roles:
            points[layer] = "projection", layer.block.name, 0
    every = [layer for layer in sites.layers if layer.block]
    return {layer: points.get(layer, ("layer", layer.name, 0)) for layer in every}


def predict(host: DiffusersHost, *edits: UNetEdit, rows: int = 1, **more: Any) -> Tensor:
    prompt = host.encode_prompt("a photo of a cat")
    at = torch.full((rows,), 300)
    with torch.no_grad():
        return host.predict(noise(rows, 4, 16, 16), at, [prompt], edits, **more)
