"""Handles in the text of a prompt: `<mug>` stands for the learned concept `mug`."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator

NAME = re.compile(r"[A-Za-z0-9_-]{1,40}")  # of a handle, without brackets
HANDLE = re.compile(rf"<({NAME.pattern})>")


def split_at_handles(text: str, known: Collection[str]) -> Iterator[tuple[str, bool]]:
    """Pieces of a prompt in order, each with whether it is the name of a known handle.

    `<name>` of an unknown handle stays part of the text around it.
    """
    start = 0
    for match in HANDLE.finditer(text):
        if match[1] not in known:
            continue
        if text[start : match.start()].strip():
            yield text[start : match.start()], False
        yield match[1], True
        start = match.end()
    if text[start:].strip():
        yield text[start:], False


def handles_in(text: str) -> list[str]:
    """Names in angle brackets, in order of first appearance, known or not."""
    return list(dict.fromkeys(match[1] for match in HANDLE.finditer(text)))
