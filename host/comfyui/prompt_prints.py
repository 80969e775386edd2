"""Recognises prompts by their vectors, even after other nodes changed the conditioning.

Nodes that rebuild a conditioning drop what stood beside its vectors. So every prompt that is
encoded leaves a print here: each vector projected on a few fixed random directions. A projection is
linear: what is a mix of two prompts in a conditioning is the same mix of their prints.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from functools import cache
from typing import Any

import torch
from torch import Tensor

from ..ports import Tokens

N_DIRECTIONS = 8
MOST_PRINTS = 512  # prompts that are remembered; some 4 kB each
UNKNOWN = -1  # a vector that nobody recognises
# Of a vector's print: what float16 and bfloat16 lose stays below, other words are ten times as far.
TOLERANCE = 4e-3


class PromptPrints:
    """The latest prompts that were encoded."""

    def __init__(self) -> None:
        self._prints: OrderedDict[bytes, tuple[Tensor, Tokens]] = OrderedDict()
        self._lock = threading.Lock()

    def add(self, context: Tensor, tokens: Tokens) -> None:
        """Remember what the vectors [1, K, width] of a prompt stand for."""
        rows = print_of(context)
        key = rows.numpy().tobytes()
        with self._lock:
            self._prints[key] = rows, tokens
            self._prints.move_to_end(key)
            while len(self._prints) > MOST_PRINTS:
                self._prints.popitem(last=False)

    def tokens_of(self, context: Tensor, written: Tokens = ()) -> Tokens:
        """What the vectors [B, K, width] of a conditioning stand for.

        Args:
            written: tokens that came beside it; they decide between prompts of the same vectors,
                and stand for vectors that were changed beyond recognition, but not for zeros.

        Returns:
            One entry for each vector; empty where none is known but the first.
        """
        rows = print_of(context)
        is_empty = (context[0] == 0).all(dim=-1).tolist()
        with self._lock:
            prints = [(known, tokens) for known, tokens in self._prints.values() if len(tokens)]
        rows = rows / _scale(rows[0], prints)
        matches: list[Any] = _nearest(rows, prints, written)
        mixed = _mixed(rows, prints, written) if None in matches else ()
        for i, token in enumerate(matches):
            if is_empty[i]:
                matches[i] = UNKNOWN
            elif token is None:
                beside = written[i] if i < len(written) else UNKNOWN
                matches[i] = mixed[i] if i < len(mixed) else beside
        # Every prompt of a left-to-right encoder starts with the same vector; it tells nothing.
        words = matches[1:] or matches
        return () if all(token == UNKNOWN for token in words) else tuple(matches)


def _nearest(
    rows: Tensor, prints: list[tuple[Tensor, Tokens]], written: Tokens
) -> list[int | str | frozenset[int | str] | None]:
    """The token of the print that each vector equals; None for a vector that is not known."""
    if not prints:
        return [None] * len(rows)
    known = torch.cat([part for part, _ in prints])
    names = [token for _, tokens in prints for token in tokens]
    exact = "donot_use_mm_for_euclid_dist"  # the quick way loses what is looked for
    distances = torch.cdist(rows, known, compute_mode=exact)
    nearest = distances.min(dim=1).values
    limit = TOLERANCE * rows.norm(dim=1)
    matches: list[Any] = []
    for i, row in enumerate(distances):
        if nearest[i] > limit[i]:
            matches.append(None)
            continue
        same = (row <= nearest[i] + 1e-5 * limit[i]).nonzero().flatten().tolist()
        beside = written[i] if i < len(written) else None
        matches.append(either([names[k] for k in same], beside))
    return matches


def _scale(first: Tensor, prints: list[tuple[Tensor, Tokens]]) -> float:
    """What a conditioning was multiplied with: every prompt starts with the same vector."""
    if not prints:
        return 1.0
    starts = torch.stack([known[0] for known, _ in prints])
    scales = (starts @ first) / starts.square().sum(dim=1).clamp_min(1e-12)
    left = (first - scales[:, None] * starts).norm(dim=1)
    best = int(left.argmin())
    is_scaled = left[best] <= TOLERANCE * first.norm() and scales[best] > TOLERANCE
    scale = float(scales[best])
    return scale if is_scaled and abs(scale - 1) > TOLERANCE else 1.0


def _mixed(rows: Tensor, prints: list[tuple[Tensor, Tokens]], written: Tokens) -> Tokens:
    """Tokens of both prompts where one prompt is the written one, moved towards another.

    That is Conditioning (Average): s a + (1 - s) b, the shorter b filled with zeros.
    """
    size = min(len(rows), len(written))
    for a in [part for part, tokens in prints if tokens == written and size]:
        moved = rows[:size] - a[:size]
        for b, tokens in prints:
            towards = -a[:size].clone()
            towards[: len(b)] += b[:size]
            share = (moved * towards).sum() / towards.square().sum().clamp_min(1e-12)
            left = (moved - share * towards).norm()
            if TOLERANCE < share < 1 and left <= TOLERANCE * rows[:size].norm():
                return tuple(
                    either([written[i], tokens[i]] if i < len(tokens) else [written[i]])
                    for i in range(size)
                )
    return ()


def either(tokens: list[Any], preferred: object = None) -> Any:
    """One token, or the set of several that may stand at one place."""
    apart: set[Any] = set()
    for token in tokens:
        apart |= token if isinstance(token, frozenset) else {token}
    if preferred in apart:
        return preferred
    return apart.pop() if len(apart) == 1 else frozenset(apart)


def print_of(context: Tensor) -> Tensor:
    """[K, N_DIRECTIONS] of the first row of a batch, float32 on the CPU."""
    return context[0].detach().to("cpu", torch.float32) @ _directions(context.shape[-1])


@cache
def _directions(width: int) -> Tensor:
    generator = torch.Generator().manual_seed(width)
    with torch.inference_mode(False):
        return torch.randn(width, N_DIRECTIONS, generator=generator) / width**0.5


PRINTS = PromptPrints()
