"""Text on a node, while it runs."""

from __future__ import annotations

import sys
from typing import Any

BRACKETS = str.maketrans("<>", "\u2039\u203a")


def show_text(text: str, node_id: str | None) -> None:
    """Replace what a node shows; nothing happens where no server runs or the host is too old."""
    server = running_server()
    if server is not None and node_id is not None:
        server.send_progress_text(for_the_editor(text), node_id)


def for_the_editor(text: str) -> str:
    """A text as a node may show it: the editor takes it for HTML and would swallow <my-mug>."""
    return text.translate(BRACKETS)


def running_server() -> Any:
    """The running server where it can show text on a node, else None (tests, scripts)."""
    # Not imported: where nobody has loaded it, none is running.
    server = getattr(getattr(sys.modules.get("server"), "PromptServer", None), "instance", None)
    return server if hasattr(server, "send_progress_text") else None
