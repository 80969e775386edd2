"""Training steps that are timed: each variant is a generator that makes a step when it is asked."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from typing import Any

import torch
from base_model import latent_side
from torch import nn

from conceptloom.host.diffusers import DiffusersHost
from conceptloom.training.adapters import Scope, scope_weight_names

Losses = Mapping[str, float]
NO_LOSSES = ("step", "phase", "total")  # columns of the loop's rows


@dataclass(frozen=True, slots=True)
class Setting:
    """What a variant works with."""

    host: DiffusersHost
    device: str
    dtype: torch.dtype

    def autocast(self) -> Any:
        """For those who keep float32 weights and let torch cast."""
        if self.dtype == torch.float32:
            return nullcontext()
        return torch.autocast(self.device, self.dtype)

    @property
    def latent_size(self) -> tuple[int, int, int]:
        return 4, latent_side(self.host), latent_side(self.host)


Make = Callable[[Setting], Iterator[Losses]]


@dataclass(frozen=True, slots=True)
class Variant:
    """One line of the table."""

    title: str
    make: Make
    casts: bool = False  # holds float32 weights and runs under autocast
    default: bool = True


class _Enough(Exception):
    """Ends a loop of which nobody asks for another step."""


def step_by_step(train: Callable[[Callable[[Losses], None]], object]) -> Iterator[Losses]:
    """A loop that calls back after every step, turned into a generator of its steps.

    Closing the generator ends the loop, which leaves the model as it leaves it after an error.
    """
    asked: queue.Queue[bool] = queue.Queue()
    made: queue.Queue[Losses] = queue.Queue()

    def on_step(row: Losses) -> None:
        made.put({name: value for name, value in row.items() if name not in NO_LOSSES})
        if not asked.get():
            raise _Enough

    def work() -> None:
        with suppress(_Enough):
            if asked.get():
                train(on_step)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        while True:
            asked.put(True)
            yield made.get()
    finally:
        asked.put(False)
        thread.join()


def unfrozen(host: DiffusersHost, scope: Scope) -> list[nn.Parameter]:
    """The weights that a scope covers, ready to learn in place; all others are frozen."""
    for network in (host.unet, *(encoder.model for encoder in host._encoders)):
        network.requires_grad_(False)
    found: list[nn.Parameter] = []
    for name in scope_weight_names(host.weight_names(), scope):
        module, attribute = host._weights[name]
        found.append(getattr(module, attribute).requires_grad_(True))
    return found
