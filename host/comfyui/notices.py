"""Warnings for the user: on the console, and on the running node.

Whatever the pack warns of while a node runs is shown on that node, from whichever room it comes:
people who work in the editor do not see the console.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from typing import Any

from comfy_execution.utils import get_executing_context

from .node_text import show_text

log = logging.getLogger("conceptloom")

MOST_NODES = 64  # runs of nodes whose sentences are remembered
MOST_SHOWN = 5  # on one node, the latest


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
