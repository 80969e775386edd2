"""How much each row of a pass takes of each localised LoRA, kept for as long as masks stay."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..host.ports import LayerSite
from .local_gates import Gate
from .local_masks import on_grid
from .local_rows import LocalRows
from .local_stacks import FactorStack

MOST_CELLS = 0.8  # of a grid, beyond which picking them out costs more than it saves
FEW_CELLS = 0.6  # the same for products of low rank, which are cheaper
Grid = tuple[int, int]


@dataclass(frozen=True, slots=True, eq=False)
class Region:
    """Where one LoRA works on one grid."""

    weights: Tensor  # [B, n, 1]
    cells: Tensor | None  # n positions; None for all


@dataclass(frozen=True, slots=True, eq=False)
class Regions:
    """How positions of one grid mix the texts that they read."""

    rest: Tensor  # [B, N, 1] share of the text of the whole picture
    by_lora: tuple[tuple[int, Region], ...]  # of LoRAs that are at work somewhere


class RowWeights:
    """Masks by row, on every grid and in every precision that layers ask for."""

    def __init__(self) -> None:
        self._rows: LocalRows | None = None
        self._active: tuple[int, ...] = ()
        self._same_pass = False
        self._masks: Tensor | None = None
        self._weights: dict[object, Tensor] = {}
        self._factors: dict[object, tuple[Tensor, Tensor | None]] = {}
        self._regions: dict[object, Regions] = {}
        self._gates: dict[object, dict[str, Gate]] = {}  # by name of the layer: sites are rebuilt
        self._gates_now: dict[str, Gate] = {}  # of this kind of pass

    def begin(self, rows: LocalRows, active: tuple[int, ...], *, same_pass: bool) -> None:
        """A pass with these rows, and these LoRAs at work.

        Args:
            same_pass: masks change from layer to layer, so positions are not picked out.
        """
        self._rows, self._active, self._same_pass = rows, active, same_pass
        self._gates_now = self._gates.setdefault((rows, active), {})

    def forget(self) -> None:
        """Another run, or other masks."""
        self._weights.clear()
        self._factors.clear()
        self._regions.clear()
        self._gates.clear()
        self._gates_now = self._gates.setdefault((self._rows, self._active), {})
        self._masks = None

    def gate(self, site: LayerSite, masks: Tensor, inputs: Tensor, output: Tensor) -> Gate | None:
        """What a layer had in an earlier pass of the same kind, if it still serves."""
        gate = self._gates_now.get(site.name) if masks is self._masks else None
        return gate if gate is not None and gate.fits(inputs, output) else None

    def keep_gate(self, site: LayerSite, gate: Gate) -> None:
        """For later passes of the same kind."""
        if gate.lasts:
            self._gates_now[site.name] = gate

    def by_lora(self, masks: Tensor, grid: Grid, like: Tensor, n_rows: int = 0) -> Tensor:
        """[B, G, h, w] in the precision of a layer; 0 for LoRAs that are not at work.

        Args:
            masks: [P, G, H, W] of this moment.
            n_rows: B, where another pack has repeated rows in whole chunks: row r is of picture
                r modulo P. 0 is as many as the pass has.
        """
        if masks is not self._masks:
            self.forget()
            self._masks = masks
        rows = self._rows
        assert rows is not None
        picture_of = rows.picture_of
        if n_rows not in (0, len(picture_of)):
            picture_of = torch.arange(n_rows) % rows.pictures
        key = (rows, grid, *_kind(like), self._active, len(picture_of))
        if key not in self._weights:
            working = torch.zeros(masks.shape[1], device=masks.device)
            working[list(self._active)] = 1
            picked = on_grid(masks * working[:, None, None], grid).to(like.device, like.dtype)
            self._weights[key] = picked.index_select(0, picture_of.to(like.device))
        return self._weights[key]

    def by_factor(
        self, masks: Tensor, grid: Grid, like: Tensor, stack: FactorStack, *, on_planes: bool
    ) -> tuple[Tensor, Tensor | None]:
        """The same for each factor, as the narrow part has it, and the positions that count.

        Returns:
            [B, R, N] on planes, else [B, N, R]; or [B, n, R] and n positions, if they are few.
        """
        # first: it forgets those of other masks
        weights = self.by_lora(masks, grid, like, len(like)).flatten(2)
        kind = (grid, len(like), *_kind(like))
        key = (self._rows, *kind, self._active, stack.owner, on_planes)
        if key not in self._factors:
            chosen = weights.index_select(1, torch.tensor(stack.owner, device=like.device))
            cells = None
            if not on_planes:
                cells = None if self._same_pass else _few_cells(weights)
                chosen = chosen if cells is None else chosen.index_select(2, cells)
                chosen = chosen.transpose(1, 2).contiguous()
            self._factors[key] = chosen, cells
        return self._factors[key]

    def regions(self, masks: Tensor, grid: Grid, like: Tensor) -> Regions:
        """What attention to the text mixes."""
        weights = self.by_lora(masks, grid, like, len(like)).flatten(2)  # [B, G, N]
        key = (self._rows, grid, len(weights), *_kind(like), self._active)
        if key not in self._regions:
            rest = (1 - weights.sum(dim=1)).clamp_min(0)[..., None]
            pairs = [(g, _region(weights[:, g], self._same_pass)) for g in self._active]
            self._regions[key] = Regions(
                rest, tuple((g, region) for g, region in pairs if region.weights.numel())
            )
        return self._regions[key]


def _region(weights: Tensor, everywhere: bool) -> Region:
    """Of one LoRA's weights [B, N]; every position where nearly all of them count."""
    cells = None if everywhere else (weights > 0).any(dim=0).nonzero()[:, 0]
    if cells is None or len(cells) >= MOST_CELLS * weights.shape[1]:
        return Region(weights[..., None], None)
    return Region(weights[:, cells, None], cells)


def _few_cells(weights: Tensor) -> Tensor | None:
    """Positions where some LoRA of [B, G, N] works; None where picking them out does not pay.

    On a GPU it never does: products of low rank take less there than to start further kernels.
    """
    if weights.device.type != "cpu":
        return None
    cells = (weights > 0).any(dim=1).any(dim=0).nonzero()[:, 0]
    return cells if len(cells) < FEW_CELLS * weights.shape[-1] else None


def _kind(like: Tensor) -> tuple[object, ...]:
    """Tensors that are kept serve others of the same kind; autograd takes none of inference mode"""
    return like.dtype, like.device, torch.is_inference_mode_enabled()
