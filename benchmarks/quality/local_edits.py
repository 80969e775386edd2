"""The engine of localised LoRAs with one ingredient taken out, and masks that are given to it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from conceptloom.attention.local import LocalEdit
from conceptloom.attention.local_finding import RunMasks
from conceptloom.attention.local_masks import cut_masks
from conceptloom.attention.local_weights import RowWeights
from conceptloom.host.ports import AttentionCall, ForwardInfo, LayerSite


class BaseText(LocalEdit):
    """Every region reads the text as the base model does: keys, values and context."""

    def _mixed(self, call: AttentionCall, grid: tuple[int, int]) -> Tensor | None:
        active, self._active = self._active, ()  # nobody mixes, but words are still looked for
        try:
            return super()._mixed(call, grid)
        finally:
            self._active = active


class NothingHidden(LocalEdit):
    """Every region reads the words of the other LoRAs, too."""

    def _attend(
        self, call: AttentionCall, query: Tensor, context: Tensor, g: int | None,
        hidden: Tensor | None,
    ) -> Tensor:  # fmt: skip
        return super()._attend(call, query, context, g, None)


class _Ones:
    """Masks of ones wherever a run has its own."""

    def __init__(self, masks: RunMasks) -> None:
        self._masks, self._known = masks, torch.zeros(0)

    def masks(self, device: torch.device) -> Tensor:
        shape = self._masks.masks(device).shape
        if self._known.shape != shape:
            self._known = torch.ones(shape, device=device)
        return self._known


class Ungated(LocalEdit):
    """Layers of the picture change everywhere; only the text is apart for each region."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._everywhere = RowWeights()

    def begin(self, info: ForwardInfo) -> None:
        super().begin(info)
        assert self._rows is not None
        self._everywhere.begin(self._rows, self._active, same_pass=False)

    def layer(
        self, site: LayerSite, inputs: Tensor, output: Tensor, info: ForwardInfo
    ) -> Tensor | None:
        masks, weights = self._masks, self._weights
        self._masks, self._weights = _Ones(masks), self._everywhere  # type: ignore[assignment]
        try:
            return super().layer(site, inputs, output, info)
        finally:
            self._masks, self._weights = masks, weights


class _OfPrompt(RowWeights):
    """Rows of the negative prompt take nothing."""

    conditional: Tensor  # [B]

    def by_lora(
        self, masks: Tensor, grid: tuple[int, int], like: Tensor, n_rows: int = 0
    ) -> Tensor:
        weights = super().by_lora(masks, grid, like, n_rows)
        return weights * self.conditional.to(weights)[:, None, None, None]


class NegativeOfBase(LocalEdit):
    """Rows of the negative prompt are the base model's."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._weights = self._of_prompt = _OfPrompt()

    def begin(self, info: ForwardInfo) -> None:
        self._of_prompt.conditional = torch.tensor(info.conditional)
        super().begin(info)


class Overlapping(RunMasks):
    """Masks do not compete: where two meet, both LoRAs work."""

    def _cut(self, attention: Tensor) -> Tensor:
        planes = attention.float().split(1, dim=1)
        cuts = [lora.config.cut for lora in self._loras]
        return torch.cat(
            [cut_masks(plane, [cut]) for plane, cut in zip(planes, cuts, strict=True)], dim=1
        )


class NoCompetition(LocalEdit):
    """With masks that may overlap."""

    def __init__(self, loras: Any, layers: Any, times: Any, last_t: float, on_masks: Any) -> None:
        super().__init__(loras, layers, times, last_t, on_masks)
        self._masks = Overlapping(self._loras, self._masks._schedule, on_masks)


class SamePass(LocalEdit):
    """Masks of every pass from its own attention, from the first step on, as LAG has them."""

    def __init__(self, loras: Any, layers: Any, times: Any, last_t: float, on_masks: Any) -> None:
        super().__init__(loras, layers, None, last_t, None)


class GivenMasks(RunMasks):
    """Masks that come from elsewhere, from some step of the run on."""

    given: Tensor  # [P, G, h, w]
    first_step: int

    def begin(self, timestep: float, shape: tuple[int, int, int]) -> bool:
        is_first = super().begin(timestep, shape)
        self._latest = None
        self._kept = self.given if self._step >= self.first_step else None
        return is_first


class WithMasks(LocalEdit):
    """The whole engine with given masks."""

    def give(self, masks: Tensor, first_step: int) -> None:
        """Masks [P, G, h, w] for a run."""
        own = self._masks
        given = GivenMasks(self._loras, own._schedule)
        given.given, given.first_step = masks, first_step
        self._masks = given


class SharedText(WithMasks):
    """One text for the whole picture; a LoRA changes keys and values of all but others' words."""

    def _mixed(self, call: AttentionCall, grid: tuple[int, int]) -> Tensor | None:
        rows = self._rows
        assert rows is not None
        if not self._active:
            return None
        context, n_keys = call.context, call.key.shape[2]
        projected: list[Tensor] = []
        for site in (call.site.key, call.site.value):
            plain = self._projected(site, None, context)
            total = plain
            for g in self._active:
                change = self._projected(site, g, context) - plain
                hidden = rows.hidden(g, n_keys, context.device)
                total = total + (change if hidden is None else change * hidden[:, 0, 0, :, None])
            projected.append(call.site.split(total))
        attended = torch.nn.functional.scaled_dot_product_attention(call.query, *projected)
        return attended.transpose(1, 2).flatten(2)
