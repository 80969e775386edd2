"""A soft mask as the loss sees it: in pixels, on the latents, and on the grid of attention maps."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from torch import Tensor

from ..scenes.soft_masks import GridWeights, weights_on_grid
from .colors import ALARM, INK, QUIET
from .drawing import Canvas, fitted, shortened

SIDE_PX = 220  # longer side of a panel
GAP_PX = 20
LINE_PX = 18
MOST_MASKS = 8  # rows; a longer batch is told of and not drawn


def soft_mask_preview(
    masks: Tensor,
    background_weight: float,
    grids: Mapping[str, tuple[int, int]],
    remarks: Sequence[str] = (),
) -> Tensor:
    """One row per mask, one panel per grid; black is weight 0, white 1.

    Below each panel stands the mean weight inside and outside; the loss counts its square.

    Args:
        masks: [B, H, W], 0..1, not softened.
        grids: title -> (h, w); the first is usually the picture itself.
        remarks: notes about changed masks; red, on top.

    Returns:
        [H, W, 3], 0..1.
    """
    width, height = fitted(tuple(masks.shape[1:]), SIDE_PX)
    step = width + GAP_PX, height + 3 * LINE_PX + GAP_PX
    rows = min(len(masks), MOST_MASKS)
    left_out = len(masks) - rows
    above, below = len(remarks) * LINE_PX, LINE_PX if left_out else 0
    width_px = len(grids) * step[0] + GAP_PX
    canvas = Canvas(width_px, above + rows * step[1] + GAP_PX + below)
    for n, remark in enumerate(remarks):
        line = shortened(remark, 13, width_px - 2 * GAP_PX)
        canvas.text((GAP_PX, (n + 0.8) * LINE_PX), line, 13, ALARM)
    for row, mask in enumerate(masks[:rows]):
        top = above + GAP_PX + row * step[1]
        for column, (title, grid) in enumerate(grids.items()):
            left = GAP_PX + column * step[0]
            seen = weights_on_grid(mask, grid, background_weight)
            gray = seen.weights[..., None].expand(-1, -1, 3)
            canvas.picture(gray, (left, top, width, height), smooth=False)
            name = f"{title}, {grid[1]}x{grid[0]}"
            canvas.text((left, top + height + 0.6 * LINE_PX), name, 13, INK)
            canvas.text((left, top + height + 1.6 * LINE_PX), _describe(seen), 12, QUIET)
            canvas.text(
                (left, top + height + 2.5 * LINE_PX), f"{100 * seen.share:.0f} % of it", 12, QUIET
            )
    if left_out:
        place = (GAP_PX, above + rows * step[1] + GAP_PX)
        canvas.text(place, f"and {left_out} more masks", 13, INK)
    return canvas.tensor()


def describe_weights(
    masks: Tensor, background_weight: float, grids: Mapping[str, tuple[int, int]]
) -> str:
    """The same in words, one line per mask and grid."""
    lines = []
    for number, mask in enumerate(masks, 1):
        for title, grid in grids.items():
            seen = weights_on_grid(mask, grid, background_weight)
            lines.append(
                f"mask {number}, {title} {grid[1]}x{grid[0]}: {_describe(seen)}, "
                f"{100 * seen.share:.0f} % of it inside"
            )
    return "\n".join(lines)


def _describe(seen: GridWeights) -> str:
    inside = "nothing" if math.isnan(seen.inside) else f"{seen.inside:.2f}"
    counts = f"{seen.outside:.2f} (counts {seen.outside**2:.2f})"
    return f"inside {inside}, outside {'nothing' if math.isnan(seen.outside) else counts}"
