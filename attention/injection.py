"""Plug-and-play injection: what is drawn keeps the structure of a template.

Tumanyan et al. 2023 (arXiv 2211.12572), as Concept Weaver (arXiv 2404.03913, Step 3) uses it.

    f_t^l  ResNet    residual of decoder block l = 4, before its skip connection is added
    f_t^l  q, k      of self-attention in decoder blocks l = 4, 7, 9

Plug-and-Play's code injects q and k into all decoder blocks from 4 on; Concept Weaver names three.
Features are taken at the inverted latents of every step, and put in while the share of steps done
is below a threshold, into rows with and without the prompt alike.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import ConfigError
from ..host.inference import usable
from ..host.ports import (
    ForwardInfo,
    Place,
    ResNetSite,
    StopForward,
    TransformerSite,
    UNetEdit,
    UNetSites,
)

Key = tuple[str, str, int]  # "resnet", "query" or "key"; name of the site; layer
Features = Mapping[Key, Tensor]  # of one step, one row each

SD_BLOCKS = (4, 7, 9)  # decoder blocks of SD1 and SD2 whose self-attention is injected
SD_ATTENTIONS = 9  # their decoder has self-attention in so many blocks, from number 3 on
SD_FIRST = 3


@dataclass(frozen=True, slots=True)
class InjectionBlocks:
    """Decoder blocks that take features from the template, by number (`output_blocks.N`)."""

    resnets: tuple[int, ...]
    attentions: tuple[int, ...]

    def resnet_sites(self, sites: UNetSites) -> list[ResNetSite]:
        return [s for s in sites.resnets if s.place is Place.UP and s.number in self.resnets]

    def attention_sites(self, sites: UNetSites) -> list[TransformerSite]:
        chosen = self.attentions
        return [s for s in sites.transformers if s.place is Place.UP and s.number in chosen]


def default_blocks(sites: UNetSites) -> InjectionBlocks:
    """4 and 4, 7, 9 for SD1 and SD2; for others the blocks as far into the decoder's attention.

    The numbers of SD1 mean nothing elsewhere: SDXL's decoder has 9 blocks and attention in its
    first 6 only. Counted among blocks with attention, 4, 7, 9 are the 2nd, 5th and 7th of 9; of
    SDXL's 6 that makes blocks 1, 3, 4. The ResNet is the one in front of the first of them.
    """
    numbers = [s.number for s in sites.transformers if s.place is Place.UP]
    share = len(numbers) / SD_ATTENTIONS
    chosen = [numbers[int((n - SD_FIRST) * share + 0.5)] for n in SD_BLOCKS]
    return InjectionBlocks((chosen[0],), tuple(dict.fromkeys(chosen)))


def checked_blocks(blocks: InjectionBlocks, sites: UNetSites) -> InjectionBlocks:
    """The same blocks, all of which the model has.

    Raises:
        ConfigError: a number is not among those of the model.
    """
    resnets = sorted({s.number for s in sites.resnets if s.place is Place.UP})
    attentions = sorted({s.number for s in sites.transformers if s.place is Place.UP})
    for name, asked, there in (
        ("resnet_blocks", blocks.resnets, resnets),
        ("attention_blocks", blocks.attentions, attentions),
    ):
        if lost := [n for n in asked if n not in there]:
            raise ConfigError(name, lost[0], f"among {', '.join(map(str, there))} for this model")
    return blocks


class FeatureCapture(UNetEdit):
    """Keeps the features of a pass of one row; changes nothing.

    Args:
        stop: end the pass with StopForward once all of them were seen.
    """

    reads_only = True

    def __init__(
        self,
        resnets: Sequence[ResNetSite],
        attentions: Sequence[TransformerSite],
        *,
        stop: bool = False,
    ) -> None:
        self._resnets = {site.name for site in resnets}
        self._attentions = {site.name for site in attentions}
        self._expected = len(resnets) + sum(2 * site.depth for site in attentions)
        self._stop = stop
        self.features: dict[Key, Tensor] = {}

    def begin(self, info: ForwardInfo) -> None:
        self.features = {}

    def wants_resnet(self, site: ResNetSite) -> bool:
        return site.name in self._resnets

    def wants_self_attention(self, site: TransformerSite) -> bool:
        return site.name in self._attentions

    def resnet(self, site: ResNetSite, output: Tensor, info: ForwardInfo) -> None:
        self._keep(("resnet", site.name, 0), output)

    def self_query(
        self, site: TransformerSite, layer: int, query: Tensor, info: ForwardInfo
    ) -> None:
        self._keep(("query", site.name, layer), query)

    def self_key(self, site: TransformerSite, layer: int, key: Tensor, info: ForwardInfo) -> None:
        self._keep(("key", site.name, layer), key)

    def _keep(self, key: Key, output: Tensor) -> None:
        self.features[key] = output.detach()
        if self._stop and len(self.features) == self._expected:
            raise StopForward


class FeatureInjection(UNetEdit):
    """Puts a template's features into every row of a pass.

    Args:
        blocks: where.
        step_of: the step that a pass belongs to, 0..S-1.
        features_at: features of a step; asked for once a pass, and only below a threshold.
        resnet_steps, attention_steps: the first so many steps are injected; 0 never asks.
    """

    def __init__(
        self,
        blocks: InjectionBlocks,
        step_of: Callable[[ForwardInfo], int],
        features_at: Callable[[int], Features],
        *,
        resnet_steps: int,
        attention_steps: int,
    ) -> None:
        self._blocks, self._step_of, self._features_at = blocks, step_of, features_at
        self._resnet_steps, self._attention_steps = resnet_steps, attention_steps
        self._step, self._features = 0, dict[Key, Tensor]()

    def begin(self, info: ForwardInfo) -> None:
        self._step = self._step_of(info)
        if self._step < max(self._resnet_steps, self._attention_steps):
            self._features = dict(self._features_at(self._step))

    def end(self) -> None:
        self._features = {}

    def wants_resnet(self, site: ResNetSite) -> bool:
        chosen = site.place is Place.UP and site.number in self._blocks.resnets
        return chosen and self._step < self._resnet_steps

    def wants_self_attention(self, site: TransformerSite) -> bool:
        chosen = site.place is Place.UP and site.number in self._blocks.attentions
        return chosen and self._step < self._attention_steps

    def resnet(self, site: ResNetSite, output: Tensor, info: ForwardInfo) -> Tensor:
        return self._given(("resnet", site.name, 0), output)

    def self_query(
        self, site: TransformerSite, layer: int, query: Tensor, info: ForwardInfo
    ) -> Tensor:
        return self._given(("query", site.name, layer), query)

    def self_key(self, site: TransformerSite, layer: int, key: Tensor, info: ForwardInfo) -> Tensor:
        return self._given(("key", site.name, layer), key)

    def _given(self, key: Key, output: Tensor) -> Tensor:
        return usable(self._features[key].to(output)).expand_as(output)


def injected_steps(share: float, steps: int) -> int:
    """How many steps a threshold covers: 0.8 of 50 are the first 40 (official pnp.py:121-125)."""
    return int(share * steps)


def feature_numbers(
    sites: UNetSites, blocks: InjectionBlocks, latent_size: tuple[int, int]
) -> tuple[int, int]:
    """How many numbers a step keeps: of ResNets, and of queries and keys."""
    info = ForwardInfo((1, 1, *latent_size), torch.zeros(1), (True,), 0)

    def cells(site: ResNetSite | TransformerSite) -> int:
        height, width = info.grid(site)
        return height * width

    resnets = sum(site.width * cells(site) for site in blocks.resnet_sites(sites))
    attentions = sum(
        2 * site.depth * site.width * cells(site) for site in blocks.attention_sites(sites)
    )
    return resnets, attentions
