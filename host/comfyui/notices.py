"""Text on a node while it runs, with the pack's warnings.

A warning of the pack during a run appears on the running node too: people who work in the editor do
not see the console.
"""

from __future__ import annotations

import logging
import sys
from collections import OrderedDict
from typing import Any

from comfy_execution.utils import get_executing_context

log = logging.getLogger("conceptloom")

BRACKETS = str.maketrans("<>", "\u2039\u203a")
MOST_NODES = 64  # runs of nodes with remembered warnings
MOST_SHOWN = 5  # on one node, the latest


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


def tell(sentence: str) -> None:
    """Say something once for every run of a node: one that learns encodes a prompt in each step."""
    if sentence not in said_by_node():
        show_warnings_on_nodes()
        log.warning("%s", sentence)


def said_by_node() -> list[str]:
    """What the node that is running has said so far; empty outside of one."""
    context, shown = get_executing_context(), _installed()
    if context is None or shown is None:
        return []
    return shown.said.get((context.prompt_id, context.node_id), [])


def with_notices(text: str) -> str:
    """A text for the running node, and below it what the node has said."""
    return "\n".join([text, *said_by_node()[-MOST_SHOWN:]])


def show_warnings_on_nodes() -> None:
    """From here on, what the pack warns of stands on the node that is running."""
    if _installed() is None:
        log.addHandler(WarningsOnNodes(logging.WARNING))


class WarningsOnNodes(logging.Handler):
    """Shows warnings on the node that is running.

    Attributes:
        said: run of a node -> its sentences, in the order in which they came.
    """

    def __init__(self, level: int) -> None:
        super().__init__(level)
        self.said: OrderedDict[tuple[Any, Any], list[str]] = OrderedDict()

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._note(record.getMessage())
        except Exception:  # a page that was closed must not end the node
            self.handleError(record)

    def _note(self, sentence: str) -> None:
        context = get_executing_context()
        if context is None:
            return
        sentences = self.said.setdefault((context.prompt_id, context.node_id), [])
        if sentence in sentences:
            return
        sentences.append(sentence)
        while len(self.said) > MOST_NODES:
            self.said.popitem(last=False)
        show_text("\n".join(sentences[-MOST_SHOWN:]), context.node_id)


def _installed() -> WarningsOnNodes | None:
    """The handler in use; by the name of its class, for the pack may have been loaded before."""
    named = (h for h in log.handlers if type(h).__name__ == WarningsOnNodes.__name__)
    return next(named, None)  # pyright: ignore[reportReturnType]
