"""Content hashes of files, for the keys of jobs."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from ..cli.models import TINYWORLD
from ..errors import InputError
from ..tinyworld.checkpoint import CHECKPOINT

PIECES, PIECE_BYTES = 64, 2**16  # of a file of weights: gigabytes are not read for every batch


def digest_of(path: Path) -> str:
    """Digest of a file's contents, 64 hex digits.

    Raises:
        InputError: it does not exist.
    """
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise InputError(f"{path} could not be read: {error.strerror}.") from error


def digest_of_model(model: str) -> str:
    """Digest of samples of a base model's files; "" if they are not on this machine.

    Args:
        model: as `cli.models.open_host` takes it.
    """
    path = CHECKPOINT if model == TINYWORLD else Path(model)
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    parts = [
        (file.relative_to(path).as_posix(), _sample(file))
        for file in files
        if file.is_file() and file.suffix in (".safetensors", ".json")
    ]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest() if parts else ""


def _sample(path: Path) -> str:
    """Size and pieces from all over a file."""
    size = path.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with path.open("rb") as file:
        for start in range(0, size, max(PIECE_BYTES, size // PIECES)):
            file.seek(start)
            digest.update(file.read(PIECE_BYTES))
    return digest.hexdigest()
