"""Moves networks to the device only while they are in use."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

# Frees so many bytes on a device: other models of the same program are sent away.
FreeVRAM = Callable[[int, torch.device], object]


class OffloadedModules:
    """Frozen modules, on the CPU until they are used.

    A module may be in several of them; each checks the actual device.

    Args:
        modules: moved together; they are frozen and put into eval mode.
        device: where they compute.
        free_vram: called before they move there; None if nothing else uses the device.
    """

    def __init__(
        self, modules: Sequence[Any], device: torch.device, free_vram: FreeVRAM | None = None
    ) -> None:
        self.modules, self.device, self.free_vram = list(modules), device, free_vram
        for module in self.modules:
            module.requires_grad_(False).eval()

    def onload(self) -> None:
        """Move them to their device, after freeing memory for them."""
        coming = self._elsewhere(self.device)
        if coming and self.free_vram is not None:
            self.free_vram(sum(bytes_of(module) for module in coming), self.device)
        self._move(self.device)

    def offload(self) -> None:
        """Move them back to the CPU and free the memory."""
        self._move(torch.device("cpu"))
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def _move(self, device: torch.device) -> None:
        with fit_for_autograd():
            for module in self._elsewhere(device):
                module.to(device)

    def _elsewhere(self, device: torch.device) -> list[Any]:
        kind = device.type
        return [m for m in self.modules if any(p.device.type != kind for p in m.parameters())]


def bytes_of(module: Any) -> int:
    """Size of a module's weights."""
    return sum(weight.nbytes for weight in (*module.parameters(), *module.buffers()))


@contextmanager
def fit_for_autograd() -> Iterator[None]:
    """Context in which created or moved weights stay usable for autograd.

    ComfyUI runs nodes in inference mode; weights created in it can never be used in backward.
    """
    with torch.inference_mode(False), torch.no_grad():
        yield
