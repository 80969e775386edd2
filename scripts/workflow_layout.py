"""Room for what the editor really draws: nodes grow, move apart, and frames follow them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

# As ComfyUI's editor draws them; where its two ways differ (canvas, Vue), the larger.
SLOT_PX, WIDGET_PX, TEXT_PX, FOOT_PX, TITLE_PX = 20, 24, 70, 16, 30
BADGE_PX = 34  # a pack's name, and "show advanced inputs", at the foot of a node
NARROWEST_PX = 230
GAP_PX, MARGIN_PX, FRAME_TITLE_PX = 30, 20, 40


@dataclass
class Box:
    """A node or a note: the place of its body, with the title above."""

    x: int
    y: int
    width: int
    height: int

    @property
    def top(self) -> int:
        return self.y - TITLE_PX

    @property
    def bottom(self) -> int:
        return self.y + self.height

    def meets(self, other: Box) -> bool:
        """Whether two are nearer than the gap, or on each other."""
        return (
            self.x < other.x + other.width + GAP_PX // 2
            and other.x < self.x + self.width + GAP_PX // 2
            and self.top < other.bottom + GAP_PX // 2
            and other.top < self.bottom + GAP_PX // 2
        )


def height_of(
    sockets: int, outputs: int, widgets: Iterable[tuple[Any, dict[str, Any]]], *, has_badge: bool
) -> int:
    """What a node needs; of each widget its type and options."""
    lines = max(sockets, outputs) * SLOT_PX
    for kind, options in widgets:
        lines += TEXT_PX if kind == "STRING" and options.get("multiline") else WIDGET_PX
    return lines + FOOT_PX + BADGE_PX * has_badge


def widen(boxes: Sequence[Box], frames: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Makes narrow boxes wider; what would then be covered moves right, and all behind it."""
    frames = [{**frame, "bounding": list(frame["bounding"])} for frame in frames]
    narrow = [box for box in boxes if box.width < NARROWEST_PX]
    edges = {box.x + box.width: NARROWEST_PX - box.width for box in narrow}
    for box in narrow:
        box.width = NARROWEST_PX
    for edge in sorted(edges, reverse=True):
        more = edges[edge]
        if not any(edge <= box.x < edge + more + GAP_PX // 2 for box in boxes):
            continue
        for box in boxes:
            box.x += more * (box.x >= edge)
        for frame in frames:
            bounding = frame["bounding"]
            if bounding[0] >= edge:
                bounding[0] += more
            elif bounding[0] + bounding[2] > edge:
                bounding[2] += more
    return frames


def settle(boxes: Sequence[Box], frames: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Moves boxes down, never sideways, until none meets another; gives the frames around them.

    A box belongs to the frame that its corner lies in. What a frame holds moves as one.
    """
    held: dict[int, list[Box]] = {i: [] for i in range(len(frames))}
    alone: list[list[Box]] = []
    for box in boxes:
        for i, frame in enumerate(frames):
            left, top, width, height = frame["bounding"]
            if left <= box.x < left + width and top <= box.y < top + height:
                held[i].append(box)
                break
        else:
            alone.append([box])
    for inside in held.values():
        _apart([[box] for box in inside], 0)
    heads = {id(inside): FRAME_TITLE_PX for inside in held.values()}
    _apart([*held.values(), *alone], MARGIN_PX, heads)
    return [
        {**frame, "bounding": _around(frame["bounding"], held[i])} for i, frame in enumerate(frames)
    ]


def _apart(blocks: list[list[Box]], margin: int, heads: dict[int, int] | None = None) -> None:
    placed: list[Box] = []
    for block in sorted((b for b in blocks if b), key=lambda b: min(box.y for box in b)):
        hull = _hull(block, margin, (heads or {}).get(id(block), 0))
        down = 0
        while any(hull.meets(other) for other in placed):
            below = max(other.bottom for other in placed if hull.meets(other))
            step = below + GAP_PX - hull.top
            hull.y += step
            down += step
        for box in block:
            box.y += down
        placed.append(hull)


def _hull(block: list[Box], margin: int, head: int) -> Box:
    """What a block covers, with its frame if it has one."""
    if not head:
        margin = 0
    left = min(box.x for box in block) - margin
    top = min(box.y for box in block) - head
    right = max(box.x + box.width for box in block) + margin
    bottom = max(box.bottom for box in block) + margin
    return Box(left, top, right - left, bottom - top)


def _around(bounding: Sequence[int], inside: list[Box]) -> list[int]:
    """The frame where it was, as high and wide as it has to be."""
    if not inside:
        return list(bounding)
    left = min(bounding[0], min(box.x for box in inside) - MARGIN_PX)
    right = max(box.x + box.width for box in inside) + MARGIN_PX
    top = min(box.top for box in inside) - FRAME_TITLE_PX
    bottom = max(box.bottom for box in inside) + MARGIN_PX
    return [left, top, max(right, left + bounding[2]) - left, bottom - top]
