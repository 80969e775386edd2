"""Plug-and-Play injection: keeps the structure of a template.

Tumanyan et al. 2023 (arXiv 2211.12572), as Concept Weaver (arXiv 2404.03913, Step 3) uses it.

    f_t^l  ResNet    residual of decoder block l = 4, before its skip connection is added
    f_t^l  q, k      of self-attention in decoder blocks l = 4, 7, 9

Plug-and-Play's code injects q and k into all decoder blocks from 4 on; Concept Weaver names three.
A transformer whose blocks are all alike has no ResNet: there the values of self-attention, which
bring the content of other positions, take its place, in all blocks but the last (as in edits of
Anima by its users); q and k are those of blocks as deep as the paper's, the second half counted as
the decoder. Where text and picture are one sequence, keys and values of the picture's tokens are
taken, as Stable Flow does (Avrahami et al. 2025, arXiv 2411.14430), in the same blocks: which
blocks are vital it measures on a trained model, and that has not been done yet. Which of them keeps
a layout best has not been measured yet, either.
Features are captured at the inverted latents of each step, and injected while the share of finished
steps is below a threshold, in rows with and without the prompt.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import ConfigError, ModelError
from ..host.inference import usable
from ..host.ports import (
    Feature,
    FeatureSite,
    ForwardInfo,
    LayerSite,
    Place,
    StopForward,
    UNetEdit,
    UNetSites,
)

Key = tuple[str, str, int]  # a `Feature`; name of the site; layer
Features = Mapping[Key, Tensor]  # of one step, one row each

SD_BLOCKS = (4, 7, 9)  # decoder blocks of SD1 and SD2 whose self-attention is injected
SD_ATTENTIONS = 9  # their decoder has self-attention in so many blocks, from number 3 on
SD_FIRST = 3
CONTENT = (Feature.RESIDUAL, Feature.VALUE)  # the others, q and k, say what belongs together


@dataclass(frozen=True, slots=True)
class InjectionBlocks:
    """Blocks that take features from the template, by number: of a UNet's on the way up.

    Attributes:
        resnets: those with their ResNet's output; of a transformer, with self-attention's values.
        attentions: those with queries and keys of it; with keys alone, where it reads the text too.
    """

    resnets: tuple[int, ...]
    attentions: tuple[int, ...]

    def sites(
        self, sites: UNetSites, *, resnets: bool = True, attentions: bool = True
    ) -> list[FeatureSite]:
        """The feature maps of these blocks."""
        return [
            site
            for site in sites.features
            if site.block.place in (Place.UP, Place.FLAT)
            and (
                resnets and site.block.number in self.resnets
                if site.kind in CONTENT
                else attentions and site.block.number in self.attentions
            )
        ]


def default_blocks(sites: UNetSites) -> InjectionBlocks:
    """4 and 4, 7, 9 for SD1 and SD2; for other models the blocks at the same relative depth.

    The numbers of SD1 do not apply to other models: SDXL's decoder has 9 blocks, with attention
    in the first 6. Counted among blocks with attention, 4, 7, 9 are the 2nd, 5th and 7th of 9; of
    SDXL's 6 that makes blocks 1, 3, 4. The ResNet is the one in front of the first of them.

    Raises:
        ModelError: the model has no such features.
    """
    if numbers := [s.number for s in sites.transformers if s.place is Place.UP]:
        chosen = _as_deep(numbers)
        return InjectionBlocks(chosen[:1], chosen)
    flat = _with_values(sites)
    if not flat:
        raise ModelError(
            "Templates keep a layout in the features of a UNet's decoder or in an attention of the "
            f"picture, and on this model ({sites.family}) neither can be read."
        )
    content = tuple(flat[:-1])
    if sites.joint is not None:
        return InjectionBlocks(content, content)
    return InjectionBlocks(content, _as_deep(flat[len(flat) // 2 :]))


def _as_deep(numbers: Sequence[int]) -> tuple[int, ...]:
    """Those of a decoder's blocks that are as deep as the paper's."""
    share, last = len(numbers) / SD_ATTENTIONS, len(numbers) - 1
    chosen = [numbers[min(int((n - SD_FIRST) * share + 0.5), last)] for n in SD_BLOCKS]
    return tuple(dict.fromkeys(chosen))


def _with_values(sites: UNetSites) -> list[int]:
    """Numbers of a transformer's blocks whose attention of the picture can be read."""
    return sorted({s.block.number for s in sites.features if s.kind is Feature.VALUE})


def checked_blocks(blocks: InjectionBlocks, sites: UNetSites) -> InjectionBlocks:
    """The same blocks, all of which the model has.

    Raises:
        ConfigError: a number is not among those of the model.
    """
    flat = _with_values(sites)
    resnets = flat or sorted({s.number for s in sites.resnets if s.place is Place.UP})
    attentions = flat or sorted({s.number for s in sites.transformers if s.place is Place.UP})
    for name, numbers, there in (
        ("resnet_blocks", blocks.resnets, resnets),
        ("attention_blocks", blocks.attentions, attentions),
    ):
        if lost := [n for n in numbers if n not in there]:
            raise ConfigError(name, lost[0], f"among {', '.join(map(str, there))} for this model")
    return blocks


class FeatureCapture(UNetEdit):
    """Keeps the features of a pass of one row; changes nothing.

    Args:
        sites: whose features are kept.
        stop: end the pass with StopForward after the last of them.
    """

    reads_only = True

    def __init__(self, sites: Sequence[FeatureSite], *, stop: bool = False) -> None:
        self._keys = {site.layer: site.key for site in sites}
        self._stop = stop
        self._sites: UNetSites | None = None
        self.features: dict[Key, Tensor] = {}

    def begin(self, info: ForwardInfo) -> None:
        self.features = {}

    def wanted_layers(self, sites: UNetSites) -> Iterable[LayerSite]:
        self._sites = sites
        return self._keys

    def layer(self, site: LayerSite, inputs: Tensor, output: Tensor, info: ForwardInfo) -> None:
        own = output[:, _picture_in(self._sites, info)]
        self.features[self._keys[site]] = own.detach().clone()
        if self._stop and len(self.features) == len(self._keys):
            raise StopForward


class FeatureInjection(UNetEdit):
    """Injects a template's features into every row of a pass.

    Args:
        blocks: where.
        step_of: the step that a pass belongs to, 0..S-1.
        features_at: features of a step; called once per pass, only below the thresholds.
        resnet_steps, attention_steps: number of first steps with injection; 0 disables it.
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
        self._keys: dict[LayerSite, Key] = {}
        self._sites: UNetSites | None = None

    def begin(self, info: ForwardInfo) -> None:
        self._step = self._step_of(info)
        if self._step < max(self._resnet_steps, self._attention_steps):
            self._features = dict(self._features_at(self._step))

    def end(self) -> None:
        self._features = {}

    def wanted_layers(self, sites: UNetSites) -> Iterable[LayerSite]:
        chosen = self._blocks.sites(
            sites,
            resnets=self._step < self._resnet_steps,
            attentions=self._step < self._attention_steps,
        )
        self._keys = {site.layer: site.key for site in chosen}
        self._sites = sites
        return self._keys

    def layer(self, site: LayerSite, inputs: Tensor, output: Tensor, info: ForwardInfo) -> Tensor:
        kept = usable(self._features[self._keys[site]].to(output))
        if self._sites is None or self._sites.joint is None:
            return kept.expand_as(output)
        changed = output.clone()
        changed[:, _picture_in(self._sites, info)] = kept
        return changed


def _picture_in(sites: UNetSites | None, info: ForwardInfo) -> slice:
    """Which tokens of a layer are the picture's: not all, where an attention reads the text too."""
    if sites is None or sites.joint is None:
        return slice(None)
    return sites.joint.spans(info).picture


def injected_steps(share: float, steps: int) -> int:
    """How many steps a threshold covers: 0.8 of 50 are the first 40 (official pnp.py:121-125)."""
    return int(share * steps)


def feature_numbers(
    sites: UNetSites, blocks: InjectionBlocks, latent_size: tuple[int, int]
) -> tuple[int, int]:
    """How many numbers a step keeps: of content, and of queries and keys."""
    info = ForwardInfo((1, 1, *latent_size), torch.zeros(1), (True,), 0)
    numbers = {kind: 0 for kind in Feature}
    for site in blocks.sites(sites):
        height, width = info.grid(site.block)
        numbers[site.kind] += (site.layer.outputs or site.block.width) * height * width
    return (
        sum(numbers[kind] for kind in CONTENT),
        numbers[Feature.QUERY] + numbers[Feature.KEY],
    )


def holds(features: Features, *, content: bool) -> bool:
    """Whether content is among features, or else queries and keys."""
    return any((Feature(kind) in CONTENT) is content for kind, _, _ in features)
