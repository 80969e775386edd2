"""Moves networks to the device only while they are in use."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

# Frees so many bytes on a device: other models of the same program are sent away.
FreeVRAM = Callable[[int, torch.device], object]


class Residence:
    """Frozen modules that wait on the CPU.

    A module may be in two residences: each looks where it really is.

    Args:
        modules: moved together; they are frozen and put into eval mode.
        device: where they compute.
        make_room: called before they move there; None where nothing else lies on the device.
    """

    def __init__(
        self, modules: Sequence[Any], device: torch.device, free_vram: FreeVRAM | None = None
    ) -> None:
        self.modules, self.device, self.free_vram = list(modules), device, free_vram
        for module in self.modules:
            module.requires_grad_(False).eval()

    def onload(self) -> None:
        """Bring them to their device, where room is made for those that are not there yet."""
        coming = self._elsewhere(self.device)
        if coming and self.free_vram is not None:
            self.free_vram(sum(bytes_of(module) for module in coming), self.device)
        self._move(self.device)

    def offload(self) -> None:
        """Send them back, and free what they took."""
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
    """What the weights of a module take."""
    return sum(weight.nbytes for weight in (*module.parameters(), *module.buffers()))


@contextmanager
def fit_for_autograd() -> Iterator[None]:
    """Weights that are made or moved in here can be trained through later.

    ComfyUI runs nodes in inference mode; a weight that was made there fails in backward for good.
    """
    with torch.inference_mode(False), torch.no_grad():
        yield
