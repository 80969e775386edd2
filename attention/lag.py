"""LAG sampling (localized attention-guided): applies residuals only where the concept appears.

    f_i -> output     W_i x                 output projection of the base model
    f'_i              W'_i x = f_i + A B x  with the residual of the concept
    M_i -> masks      attention of the handle and the class word, above its median

    (1 - M) f + M f' = W x + M (A B x)      Ham et al. 2024, arXiv 2405.12978, Sec. 3.2

Cross-attention of a block runs before its output projection, so the mask comes from the same
forward pass and needs no second one. A transformer's blocks have no such projection: residuals lie
on all of their layers, and those before the cross-attention take the mask of the block before.
Where text and picture are one sequence, the tokens of a concept's own words take the residual too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ..host.inference import usable
from ..host.ports import (
    AttentionCall,
    AttentionSite,
    ForwardInfo,
    LayerSite,
    TransformerSite,
    UNetEdit,
    UNetSites,
    WaitsForPrompt,
)
from ..samplers.masks import check_aspect
from .context_rows import PromptRows, prompts_of_others
from .lag_config import LagConfig, Unconditional
from .lag_masks import binarised, exclusive, smoothed, summed_attention
from .lag_plan import LagConcept, Plan, by_token, plan_of, rows_of

_LATEST = ""  # the block before, whichever it is
OnMasks = Callable[[TransformerSite, Tensor, ForwardInfo], None]  # block, masks [P, G, h, w], info


class LagEdit(UNetEdit):
    """Merges the residuals of some concepts into every output projection, by their masks.

    In each pass `begin` plans which rows and tokens to read. In each block, `attention` adds up the
    attention of the concepts; `layer`, called for the output projection afterwards, turns it into
    masks and adds the residuals.

    Args:
        concepts: of one base model; overlaps go to the one with the stronger attention.
        last_t: of the model's noise path, for `start` and `end`.
        on_masks: receives every block's masks.
    """

    def __init__(
        self,
        concepts: Sequence[LagConcept],
        last_t: float = 999,
        on_masks: OnMasks | None = None,
    ) -> None:
        self._concepts = tuple(c for c in concepts if c.config.strength != 0)
        self._last_t, self._on_masks = last_t, on_masks
        # Of one network: the layers with a residual, and whether several of a block share its
        # masks, those before its attention the masks of the block before.
        self._sites: UNetSites | None = None
        self._layers: list[LayerSite] = []
        self._shares_masks = False
        # Of one forward pass; `end` drops them.
        self._plan: Plan | None = None
        self._replaced_rows: PromptRows | None = None  # another pack's, in place of the plan's
        self._attention: dict[str, Tensor] = {}  # by block, until its first layer asks
        self._masks_of: dict[str, Tensor] = {}  # by block
        # Of a run: masks of the latest pass with a prompt that holds a concept, for rows without.
        self._latest_masks: dict[str, Tensor] = {}
        self._latest_t: Tensor | None = None  # timesteps of that pass
        self._is_later_part = False  # of a batch that the host cut into several passes
        # Computed once.
        self._plans: dict[object, Plan] = {}
        self._factors: dict[object, tuple[Tensor, Tensor, Tensor]] = {}
        self._user_masks: dict[object, Tensor] = {}

    def begin(self, info: ForwardInfo) -> None:
        concepts = self._at_work(info)
        key = (
            concepts, info.prompts, info.pictures, info.context_length, info.timesteps.device,
            info.read_context is not None, any(info.conditional), info.part,
        )  # fmt: skip
        self._is_later_part = not info.is_first
        if key not in self._plans:
            for concept in concepts:
                if concept.mask is not None:
                    size = concept.mask.shape[-2], concept.mask.shape[-1]
                    check_aspect(size, (info.latent_shape[-2], info.latent_shape[-1]), " latents")
            self._plans[key] = plan_of(concepts, info)
        self._plan = plan = self._plans[key]
        if plan.rows.exist:
            self._latest_t = info.timesteps
        elif not self._has_seen(info):
            self._latest_masks.clear()
            borrows = any(
                c.config.localised and c.config.unconditional is Unconditional.SAME
                for c in concepts
            )
            if borrows and not any(info.conditional):
                names = ", ".join(f"<{c.handle}>" for c in concepts)
                raise WaitsForPrompt(f"no earlier prompt contains {names}")

    def end(self) -> None:
        self._attention.clear()
        self._masks_of.clear()
        self._plan = self._replaced_rows = None

    def wanted_layers(self, sites: UNetSites) -> list[LayerSite]:
        if sites is not self._sites:
            changed = {name for concept in self._concepts for name in concept.residuals}
            self._sites = sites
            self._layers = [site for site in sites.layers if site.weight in changed]
            self._shares_masks = bool(sites.finders)
        concepts = self._plan.concepts if self._plan is not None else ()
        return [s for s in self._layers if any(s.weight in c.residuals for c in concepts)]

    def wanted_attended(self, sites: UNetSites) -> list[AttentionSite]:
        plan = self._plan
        if plan is None or not plan.may_have_rows:
            return []
        if not any(c.config.localised for c in plan.concepts):
            return []
        blocks = {site.block for site in self.wanted_layers(sites)}
        return [site for site in sites.cross_attentions if site.block in blocks]

    def attended(self, call: AttentionCall) -> None:
        plan, name = self._plan, call.site.block.name
        assert plan is not None
        rows = self._rows_at(plan, call)
        if not rows.exist:
            return
        query, key = call.flat_query[rows.index], call.flat_key[rows.index]
        content = call.info.content(key.shape[1], key.device)
        content = content if content is None else content[rows.index]
        maps = summed_attention(query, key, call.site.heads, rows.chosen, content)
        before = self._attention.get(name)
        self._attention[name] = maps if before is None else before + maps

    def _rows_at(self, plan: Plan, call: AttentionCall) -> PromptRows:
        """The plan's rows, or those that another pack has put in their place."""
        if self._replaced_rows is None and (prompts := prompts_of_others(call)):
            n_pictures = len(plan.rows.holds)
            pictures = [row % n_pictures for row in range(len(prompts))]
            size, device = call.key.shape[-2], call.key.device
            rows = rows_of(plan.concepts, prompts, pictures, size, device)
            # Where nobody knows their words, they start with the host's own rows.
            self._replaced_rows = rows if any(prompts) else plan.rows
            if rows.exist:
                self._latest_t = call.info.timesteps
        return self._replaced_rows or plan.rows

    def layer(self, site: LayerSite, inputs: Tensor, output: Tensor, info: ForwardInfo) -> Tensor:
        plan = self._plan
        assert plan is not None
        up, down, owner = self._stacked(site, plan.concepts, inputs)
        weights: Tensor | None = None
        if not plan.is_everywhere:
            weights = self._weights(site, plan, inputs, info).to(inputs.dtype)  # [B, G, N]
            if self._sites is not None and self._sites.joint is not None:
                spans = self._sites.joint.spans(info)
                weights = by_token(weights, plan, spans, inputs)
            if len(plan.concepts) > 1:
                weights = weights.index_select(1, owner)  # [B, r, N]
        rows = len(inputs)
        if inputs.ndim == 4:  # a convolution, on [B, C, h, w]
            hidden = torch.bmm(down.expand(rows, -1, -1), inputs.flatten(2))  # B x
            hidden = hidden if weights is None else hidden * weights  # M (B x)
            merged = torch.baddbmm(output.flatten(2), up.expand(rows, -1, -1), hidden)
            return merged.view_as(output)
        hidden = inputs @ down.T
        hidden = hidden if weights is None else hidden * weights.transpose(1, 2)
        return torch.baddbmm(output, hidden, up.T.expand(rows, -1, -1))

    def _at_work(self, info: ForwardInfo) -> tuple[LagConcept, ...]:
        if all(c.config.start == 0 and c.config.end == 1 for c in self._concepts):
            return self._concepts
        done = 1 - float(info.timesteps.flatten()[0]) / self._last_t
        return tuple(c for c in self._concepts if c.config.start <= done <= c.config.end)

    def _has_seen(self, info: ForwardInfo) -> bool:
        return self._latest_t is not None and bool(
            (self._latest_t.flatten()[0] == info.timesteps.flatten()[0]).all()
        )

    def _weights(self, site: LayerSite, plan: Plan, inputs: Tensor, info: ForwardInfo) -> Tensor:
        """What each position of each row takes of each residual, [B, G, N].

        Where all rows take the same, [1, G, N].
        """
        masks = self._masks(site, plan, inputs, info)
        if plan.picture_of is not None:
            masks = masks.index_select(0, plan.picture_of)
        if plan.is_plain:
            return masks
        weights = masks.expand(len(inputs), -1, -1).clone()
        negative = [not is_conditional for is_conditional in info.conditional]
        for g, concept in enumerate(plan.concepts):
            config = concept.config
            if not config.localised:
                weights[:, g] = self._allowed(concept, info.grid(site), weights.device)
            elif config.unconditional is not Unconditional.SAME and any(negative):
                weights[negative, g] = float(config.unconditional is Unconditional.EVERYWHERE)
        return weights

    def _masks(self, site: LayerSite, plan: Plan, inputs: Tensor, info: ForwardInfo) -> Tensor:
        """M_i of every picture and concept, [P, G, N]."""
        grid, rows = info.grid(site), self._replaced_rows or plan.rows
        shape = (*rows.holds.shape[:2], grid[0] * grid[1])
        block = _block_of(site)
        attention = self._attention.pop(block.name, None)
        if attention is None:
            masks = self._known_masks(site, block, shape, rows.exist)
            if masks is None:
                masks = self._before_any(plan, rows, grid, inputs.device)
            return usable(masks)
        if rows.pictures is not None:
            index = rows.pictures[:, None, None].expand_as(attention)
            nothing = torch.zeros(shape, device=inputs.device)
            attention = nothing.scatter_reduce(0, index, attention, "amax")
        # Layers of a block were summed; the mean has the same order, and so the same mask.
        if plan.shares_shape:  # all at once
            masks = self._mask(attention, plan.concepts[0].config, grid)
        else:
            parts = (
                self._mask(attention[:, g : g + 1], concept.config, grid)
                for g, concept in enumerate(plan.concepts)
            )
            masks = torch.cat(list(parts), dim=1)
        for g, concept in enumerate(plan.concepts):
            if concept.mask is not None:
                masks[:, g] *= self._allowed(concept, grid, masks.device)
        masks = exclusive(masks if rows.all_hold else masks * rows.holds, attention)
        if self._is_later_part and site.name in self._latest_masks:  # pictures of the parts before
            masks = torch.maximum(masks, self._latest_masks[site.name].to(masks))
        seen = masks.detach()  # or it would hold a guided pass's graph
        self._latest_masks[site.name] = seen
        if self._shares_masks:
            self._masks_of[block.name] = self._masks_of[_LATEST] = masks
        if self._on_masks is not None:
            self._on_masks(block, seen.unflatten(-1, grid), info)
        return masks

    def _known_masks(
        self, site: LayerSite, block: TransformerSite, shape: tuple[int, ...], reads: bool
    ) -> Tensor | None:
        """Masks for a layer whose block has not just looked at a prompt with a concept.

        Args:
            reads: some prompt of this pass holds one.
        """
        masks = self._masks_of.get(block.name, self._masks_of.get(_LATEST))
        if masks is not None and masks.shape == shape:
            self._latest_masks[site.name] = masks.detach()
            return masks
        seen = None if reads else self._latest_masks.get(site.name)
        # The prompt with the concept may have covered a part of the picture only.
        return seen if seen is not None and seen.shape == shape else None

    def _before_any(
        self, plan: Plan, rows: PromptRows, grid: tuple[int, int], device: torch.device
    ) -> Tensor:
        """Masks where nothing was located yet: nowhere, but for concepts that no mask limits."""
        masks = torch.zeros(*rows.holds.shape[:2], grid[0] * grid[1], device=device)
        for g, concept in enumerate(plan.concepts if rows.exist else ()):
            if concept.config.quantile == 0:
                masks[:, g] = self._allowed(concept, grid, device)
        return masks * rows.holds.to(device)

    def _mask(self, attention: Tensor, config: LagConfig, grid: tuple[int, int]) -> Tensor:
        if config.smoothing:
            attention = smoothed(attention, grid, config.smoothing)
        return binarised(attention, config.quantile, config.softness)

    def _allowed(
        self, concept: LagConcept, grid: tuple[int, int], device: torch.device
    ) -> Tensor | int:
        """The user's own mask of a concept on a grid, [N]; 1 where there is none."""
        if concept.mask is None:
            return 1
        key = (concept, grid, device)
        if key not in self._user_masks:
            plane = concept.mask[None, None].float()
            self._user_masks[key] = F.interpolate(plane, grid, mode="area").flatten().to(device)
        return self._user_masks[key]

    def _stacked(
        self, site: LayerSite, concepts: tuple[LagConcept, ...], inputs: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """All residuals of a block side by side: up [m, r] with the strength in it, down [r, m],
        and which concept owns each of them [r].
        """
        key = (site.name, concepts, inputs.device, inputs.dtype)
        if key not in self._factors:
            parts = [
                (g, c.config.strength * c.residuals[site.weight][0], c.residuals[site.weight][1])
                for g, c in enumerate(concepts)
                if site.weight in c.residuals
            ]
            up = torch.cat([up for _, up, _ in parts], dim=1).to(inputs)
            down = torch.cat([down.flatten(1) for _, _, down in parts]).to(inputs)
            owner = [g for g, part, _ in parts for _ in range(part.shape[1])]
            self._factors[key] = up, down, torch.tensor(owner, device=inputs.device)
        return self._factors[key]


def _block_of(site: LayerSite) -> TransformerSite:
    assert isinstance(site.block, TransformerSite)
    return site.block
