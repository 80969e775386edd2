"""Sentences for the user that stop nothing: on the console, and on the node that is running."""

from __future__ import annotations

import logging
from collections import deque
from typing import Any

from comfy_execution.utils import get_executing_context

from .progress import for_the_editor, running_server

log = logging.getLogger("conceptloom")

# A node that learns encodes the same prompt in every step and says the sentence once.
_said: deque[tuple[Any, str]] = deque(maxlen=256)


def tell(sentence: str) -> None:
    """Say something once for every run of a node."""
    context = get_executing_context()
    if context is not None:
        key = ((context.prompt_id, context.node_id), sentence)
        if key in _said:
            return
        _said.append(key)
    log.warning("%s", sentence)
    server = running_server()
    if server is not None and context is not None:
        server.send_progress_text(for_the_editor(sentence), context.node_id)
