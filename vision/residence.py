"""Networks that are on the device only while they are used."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

_SAMPLED, _NUMBERS = 48, 128  # weights that stand for a model, and numbers of each


class Residence:
    """Frozen modules that wait on the CPU.

    A module may be in two residences: each looks where it really is.

    Args:
        modules: moved together; they are frozen and put into eval mode.
        device: where they compute.
    """

    def __init__(self, modules: Sequence[Any], device: torch.device) -> None:
        self.modules, self.device = list(modules), device
        for module in self.modules:
            module.requires_grad_(False).eval()

    def here(self) -> None:
        """Bring them to their device."""
        self._move(self.device)

    def park(self) -> None:
        """Send them back, and free what they took."""
        self._move(torch.device("cpu"))
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def _move(self, device: torch.device) -> None:
        with fit_for_autograd():
            for module in self.modules:
                if any(p.device.type != device.type for p in module.parameters()):
                    module.to(device)


@contextmanager
def fit_for_autograd() -> Iterator[None]:
    """Weights that are made or moved in here can be trained through later.

    ComfyUI runs nodes in inference mode; a weight that was made there fails in backward for good.
    """
    with torch.inference_mode(False), torch.no_grad():
        yield


def digest_of(told: str, modules: Sequence[Any]) -> str:
    """Tells two models of one kind apart by a sample of their weights, as 64 hex digits."""
    digest = hashlib.sha256(told.encode())
    for module in modules:
        weights = list(module.named_parameters())
        for name, weight in weights[:: max(1, len(weights) // _SAMPLED)]:
            sample = weight.detach().reshape(-1)[:_NUMBERS].float().cpu().contiguous()
            digest.update(name.encode())
            digest.update(sample.view(torch.uint8).numpy().data)
    return digest.hexdigest()
