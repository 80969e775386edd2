"""Progress on the node: bar, text where the host shows some, preview pictures, and cancelling."""

from __future__ import annotations

import sys
from typing import Any

import comfy.model_management
import comfy.utils
from PIL import Image
from torch import Tensor

PREVIEW_PX = 512  # longer side of what is sent to the browser
BRACKETS = str.maketrans("<>", "\u2039\u203a")


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
            self._show(message)

    def _show(self, message: str) -> None:
        server = running_server()
        if server is not None and self._node_id is not None:
            server.send_progress_text(for_the_editor(message), self._node_id)


def for_the_editor(text: str) -> str:
    """A text as a node may show it: the editor takes it for HTML and would swallow <my-mug>."""
    return text.translate(BRACKETS)


def running_server() -> Any:
    """The running server where it can show text on a node, else None (tests, scripts)."""
    # Not imported: where nobody has loaded it, none is running.
    server = getattr(getattr(sys.modules.get("server"), "PromptServer", None), "instance", None)
    return server if hasattr(server, "send_progress_text") else None


def _picture(image: Tensor) -> Image.Image:
    """A preview [H, W, 3], 0..1, as the host wants it."""
    pixels = image.detach().float().clamp(0, 1).mul(255).round().byte().cpu()
    return Image.fromarray(pixels.numpy())
