"""Handles in the text of a prompt: `<mug>` stands for the learned concept `mug`."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping

from ..errors import HandleError

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


def check_free(known: Mapping[str, str], added: Mapping[str, str]) -> None:
    """Whether handles may be applied beside those that are applied already.

    The rule of every way of applying a concept, in both hosts: a handle stands for one concept.
    The same concept may come again, and its strengths add up.

    Args:
        known, added: handle -> identity of its concept (see `training.concept.identities`).

    Raises:
        HandleError: a handle stands for another concept already, or differs from one in upper and
            lower case only.
    """
    spelt = {name.casefold(): name for name in known}
    for name, identity in added.items():
        other = spelt.get(name.casefold())
        if other is None or (other == name and known[other] == identity):
            continue
        taken = f"<{other}>" if other == name else f"<{other}>, which differs from it in case only,"
        raise HandleError(
            f"Two concepts bring the handle <{name}>: {taken} already stands for another one. Give "
            f"one of them a new name: in ComfyUI the input rename of Load Concept ({name}: "
            f"{name}-2), on the command line --concept FILE:STRENGTH:NEWNAME."
        )
