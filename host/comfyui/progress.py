"""Progress on the node: bar, text where the host shows some, preview pictures, and cancelling."""

from __future__ import annotations

from typing import Any

import comfy.model_management
import comfy.utils
from PIL import Image
from torch import Tensor

from .notices import show_text, with_notices

PREVIEW_PX = 512  # longer side of what is sent to the browser


class NodeProgress:
    """A `Progress` that reports to the node which is running.

    Args:
        node_id: the node's `hidden.unique_id`; without it no text is shown on older hosts.
    """

    def __init__(self, node_id: str | None = None) -> None:
        self._node_id = node_id
        self._bar: Any = None

    def __call__(
        self, step: int, total: int, message: str = "", preview: Tensor | None = None
    ) -> None:
        """Tell how far we are; raises what the host raises when the user has cancelled."""
        comfy.model_management.throw_exception_if_processing_interrupted()
        if self._bar is None:
            self._bar = comfy.utils.ProgressBar(total, node_id=self._node_id)
        picture = ("JPEG", _picture(preview), PREVIEW_PX) if preview is not None else None
        self._bar.update_absolute(step, total, picture)
        if message:
            show_text(with_notices(message), self._node_id)


def _picture(image: Tensor) -> Image.Image:
    """A preview [H, W, 3], 0..1, as the host wants it."""
    pixels = image.detach().float().clamp(0, 1).mul(255).round().byte().cpu()
    return Image.fromarray(pixels.numpy())
