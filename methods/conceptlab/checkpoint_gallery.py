"""Checkpoints of a run: vectors and pictures of every round, to choose from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ...errors import ConfigError
from ...training.checkpoints import StateFolder

Vectors = Mapping[str, Tensor]  # encoder -> [n, width]


class CheckpointGallery:
    """Vectors and pictures by step; on disk if the run has a folder."""

    def __init__(self, notes: dict[str, Any], folder: StateFolder | None) -> None:
        self._notes, self._folder = notes, folder
        self._kept: dict[str, Tensor] = {}

    @property
    def steps(self) -> list[int]:
        """Steps that were kept, in order."""
        return sorted(self._notes.get("album", []))

    def keep(self, step: int, vectors: Vectors, pictures: Tensor | None) -> None:
        """Remember a step; pictures [n, H, W, 3], 0..1, are stored with 8 bits."""
        for encoder, rows in vectors.items():
            self._put(f"{encoder}-{step:08d}", rows.detach().float().cpu().clone())
        if pictures is not None:
            self._put(f"pictures-{step:08d}", (pictures.clamp(0, 1) * 255).round().byte().cpu())
        if step not in self._notes.setdefault("album", []):
            self._notes["album"].append(step)

    def has(self, step: int, encoders: Mapping[str, Any]) -> bool:
        """Whether a step was kept, also by a run that was saved before it."""
        try:
            for encoder in encoders:
                self._get(f"{encoder}-{step:08d}")
        except KeyError:
            return False
        if step not in self._notes.setdefault("album", []):
            self._notes["album"].append(step)
        return True

    def vectors(self, step: int, encoders: Mapping[str, int]) -> dict[str, Tensor]:
        """The handle after a step.

        Raises:
            ConfigError: there is no checkpoint of that step.
        """
        if step not in self.steps:
            steps = ", ".join(map(str, self.steps)) or "none"
            raise ConfigError("checkpoint", step, f"one of the saved steps: {steps}")
        return {encoder: self._get(f"{encoder}-{step:08d}") for encoder in encoders}

    def pictures(self, step: int) -> Tensor | None:
        """[n, H, W, 3] 0..1, or None where none were drawn."""
        try:
            return self._get(f"pictures-{step:08d}").float() / 255
        except KeyError:
            return None

    def _put(self, name: str, tensor: Tensor) -> None:
        self._kept[name] = tensor
        if self._folder is not None:
            self._folder.remembered(name, lambda: tensor)

    def _get(self, name: str) -> Tensor:
        if name in self._kept or self._folder is None:
            return self._kept[name]

        def lost() -> Tensor:
            raise KeyError(name)

        with torch.no_grad():
            self._kept[name] = self._folder.remembered(name, lost)
        return self._kept[name]
