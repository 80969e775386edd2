"""How much each row of a pass takes of each localised LoRA, kept for as long as masks stay."""

from __future__ import annotations

import torch
from torch import Tensor

from .local_masks import on_grid
from .local_rows import LocalRows
from .local_stacks import FactorStack

MOST_CELLS = 0.8  # of a grid, beyond which picking them out costs more than it saves
Grid = tuple[int, int]


class RowWeights:
    """Masks by row, on every grid and in every precision that layers ask for."""

    def __init__(self) -> None:
        self._rows: LocalRows | None = None
        self._active: tuple[int, ...] = ()
        self._masks: Tensor | None = None
        self._weights: dict[object, Tensor] = {}
        self._cells: dict[object, Tensor | None] = {}

    def begin(self, rows: LocalRows, active: tuple[int, ...]) -> None:
        """A pass with these rows, and these LoRAs at work."""
        self._rows, self._active = rows, active

    def forget(self) -> None:
        """Another run, or other masks."""
        self._weights.clear()
        self._cells.clear()
        self._masks = None

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
        key = (rows, grid, like.dtype, like.device, self._active, len(picture_of))
        if key not in self._weights:
            working = torch.zeros(masks.shape[1], device=masks.device)
            working[list(self._active)] = 1
            picked = on_grid(masks * working[:, None, None], grid).to(like.device, like.dtype)
            self._weights[key] = picked.index_select(0, picture_of.to(like.device))
        return self._weights[key]

    def by_factor(
        self, masks: Tensor, grid: Grid, like: Tensor, stack: FactorStack, *, flat: bool = False
    ) -> Tensor:
        """The same for each factor, as the narrow part has it: [B, R, h, w], flat [B, N, R]."""
        # first: it forgets those of other masks
        weights = self.by_lora(masks, grid, like, len(like))
        key = (
            self._rows, grid, len(like), like.dtype, like.device, self._active, stack.owner, flat,
        )  # fmt: skip
        if key not in self._weights:
            owner = torch.tensor(stack.owner, device=like.device)
            chosen = weights.index_select(1, owner)
            self._weights[key] = chosen.flatten(2).transpose(1, 2).contiguous() if flat else chosen
        return self._weights[key]

    def cells(self, g: int, grid: Grid, weights: Tensor) -> Tensor | None:
        """Positions where a LoRA works in some row; None for nearly all of them.

        Args:
            weights: [B, G, N] of `by_lora`.
        """
        key = (self._rows, grid, len(weights), weights.device, self._active, g)
        if key not in self._cells:
            inside = (weights[:, g] > 0).any(dim=0)
            cells = inside.nonzero()[:, 0]
            self._cells[key] = cells if len(cells) < MOST_CELLS * len(inside) else None
        return self._cells[key]
