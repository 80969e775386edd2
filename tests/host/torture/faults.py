"""Faults in the middle of a network's pass: cancel pressed, something broken, no memory left."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import comfy.model_management
import pytest
import torch
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel

BROKEN = "something broke in the middle"


@dataclass
class Passes:
    """How often a network was asked, and which time something happens."""

    at: int = -1  # counted from 0
    fault: str = ""
    lasts: bool = False  # and every time after it
    seen: int = 0

    def happen(self) -> None:
        number, self.seen = self.seen, self.seen + 1
        if self.at < 0 or number < self.at or (number > self.at and not self.lasts):
            return
        if self.fault == "cancel":
            comfy.model_management.interrupt_current_processing(True)
        elif self.fault == "breaks":
            raise RuntimeError(BROKEN)
        elif self.fault == "no memory":
            raise torch.OutOfMemoryError("out of memory, the test says")


@contextmanager
def faults(at: int = -1, fault: str = "", *, lasts: bool = False) -> Iterator[Passes]:
    """Let a fault happen in the middle block of a UNet (all hooks are on) or in a prior."""
    passes = Passes(at, fault, lasts)
    with pytest.MonkeyPatch.context() as patch:
        _watch(patch, passes, UNetModel, "middle_block")
        try:
            from diffusers import PriorTransformer
        except ImportError:
            pass
        else:
            _watch(patch, passes, PriorTransformer, "norm_out")
        try:
            yield passes
        finally:
            comfy.model_management.interrupt_current_processing(False)


def _watch(patch: pytest.MonkeyPatch, passes: Passes, kind: type, middle: str) -> None:
    """Look at every pass when it reads its middle module; nothing is put on a module."""
    name, inside = "_forward" if hasattr(kind, "_forward") else "forward", []
    forward, found = getattr(kind, name), kind.__getattr__

    def watched(self: Any, *args: Any, **kwargs: Any) -> Any:
        inside.append(self)
        try:
            return forward(self, *args, **kwargs)
        finally:
            inside.pop()

    def get(self: Any, attribute: str) -> Any:
        if attribute == middle and inside and inside[-1] is self:
            inside[-1] = None  # once a pass
            passes.happen()
        return found(self, attribute)

    patch.setattr(kind, name, watched)
    patch.setattr(kind, "__getattr__", get, raising=False)
