"""A recipe small enough to follow by hand, for the tests of the training loop."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from conceptloom.training.recipe import Events, Phase, StepDown


class Cancelled(Exception):
    """What a host raises when its user cancels."""


class Lines:
    """A handle in the first phase, a weight with it in the second; targets are drawn."""

    def __init__(self, steps: Sequence[int] = (3, 4), rate: float = 0.05) -> None:
        generator = torch.Generator().manual_seed(1)
        self.handle = nn.Parameter(torch.randn(4, generator=generator))
        self.weight = nn.Parameter(torch.randn(4, generator=generator))
        self.steps, self.rate = steps, rate
        self.seen: list[tuple[str, int]] = []
        self.rows, self.checkpointing, self.inside = 2, False, 0
        self.factor: Callable[[int], float] = lambda pass_: 1.0

    def phases(self) -> Sequence[Phase]:
        first, second = self.steps
        return [
            Phase("handles", first, self.rate, [self.handle]),
            Phase("weights", second, self.rate / 2, [self.handle, self.weight]),
        ]

    def named_parameters(self) -> Mapping[str, nn.Parameter]:
        return {"handle": self.handle, "weight": self.weight}

    @contextmanager
    def computing(self, phase: Phase) -> Iterator[None]:
        self.inside += 1
        try:
            yield
        finally:
            self.inside -= 1

    def losses(self, phase: Phase, generator: torch.Generator) -> Mapping[str, Tensor]:
        assert self.inside == 1
        factor = self.factor(len(self.seen))
        self.seen.append((phase.name, self.rows))
        target = torch.randn(self.rows, 4, generator=generator)
        near = (self.handle - target).square().mean() * factor
        terms = {"diffusion": near, "prior": 0.5 * (self.weight * self.handle).square().sum()}
        return terms if len(self.seen) % 2 else dict(reversed(terms.items()))

    def step_down(self) -> StepDown | None:
        if self.rows > 1:
            passes, self.rows = self.rows, 1
            return StepDown("one at a time", passes)
        return None

    def values(self) -> list[float]:
        return [*self.handle.tolist(), *self.weight.tolist()]


def stop_at(step: int) -> Events:
    def progress(now: int, total: int, message: str = "", preview: Tensor | None = None) -> None:
        if now == step:
            raise Cancelled

    return Events(progress)
