"""Encodes pictures to latents, with progress."""

from __future__ import annotations

from torch import Tensor

from ..host.ports import Host, Progress


class PictureEncoder:
    """Encodes what a run learns from; reports after each picture, and so can be cancelled there.

    Args:
        total: how many pictures there will be.
    """

    def __init__(self, host: Host, total: int, progress: Progress) -> None:
        self._host, self._total, self._progress, self._done = host, total, progress, 0

    def __call__(self, image: Tensor) -> Tensor:
        """Latent [C, h, w] of a picture [H, W, 3], 0..1."""
        latent = self._host.encode_image(image[None])[0]
        self._done += 1
        self._progress(self._done, max(self._done, self._total), "encoding the pictures")
        return latent
