"""Folders of which each holds a JSON file that ties its pictures together."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from conceptloom.errors import InputError

Read = TypeVar("Read")


def each_folder(
    folder: Path, name: str, read: Callable[[Path], Read], shown_in: str
) -> dict[str, Read]:
    """Name of a folder -> what its file says.

    Args:
        name: of the file in every folder.
        shown_in: the program at whose top one is shown.

    Raises:
        InputError: there is none.
    """
    found = {file.parent.name: read(file) for file in sorted(folder.glob(f"*/{name}"))}
    if not found:
        told = f"the top of {shown_in} shows one"
        raise InputError(f"{folder} holds no folder with a {name}; {told}.")
    return found


def document_of(file: Path) -> Any:
    """What a JSON file holds.

    Raises:
        InputError: it is none.
    """
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{file} is not JSON: {error}.") from error
