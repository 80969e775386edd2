"""Valid file paths, and atomic writes."""

from __future__ import annotations

import errno
import itertools
import os
import re
import uuid
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from ..errors import ConceptFileError, StorageError

# Bytes of one folder or file name. File systems stop at 255; a run's concept file adds "-12345678".
LONGEST_PART = 246
_ODD = re.compile(r"[\x00-\x1f\x7f<>:\"|?*\ud800-\udfff]")
_PORTS = {f"{port}{n}" for port in ("com", "lpt") for n in "0123456789\u00b9\u00b2\u00b3"}
_DEVICES = _PORTS | {"con", "prn", "aux", "nul", "conin$", "conout$", "clock$"}


def confined_path(folder: str | os.PathLike[str], name: str, suffix: str) -> Path:
    """Path of a file that a user named, always inside of `folder`.

    A subfolder may be a symbolic link: its creator chose it, and no name can create one.

    Args:
        name: "mug" or "kitchen/mug", with or without the suffix.
        suffix: ".safetensors" and the like.

    Raises:
        ConceptFileError: the name is empty, absolute, too long, leads out of the folder, holds
            characters that a file system refuses, or is a device of Windows.
    """
    plain = name.replace("\\", "/")
    if not plain.lower().endswith(suffix):
        plain += suffix
    if _ODD.search(name) or name.startswith(("/", "\\", "~")):
        raise ConceptFileError(f"{name!r} is not a file name here: {_RULE}")
    for part in plain.split("/"):
        stem = part.split(".")[0].rstrip(" ").lower()
        if not stem or part != part.strip() or part.endswith("."):
            raise ConceptFileError(f"{name!r} is not a file name here: {_RULE}")
        if (length := len(part.encode())) > LONGEST_PART:
            raise ConceptFileError(
                f"{name!r:.60} is too long for a file name: {part!r:.30} has {length} bytes, the "
                f"limit is {LONGEST_PART} (a Korean or Chinese letter takes three); {_RULE}"
            )
        if stem in _DEVICES:
            raise ConceptFileError(
                f"{name!r}: Windows reserves the name {stem!r} for a device; {_RULE}"
            )
    root = os.path.realpath(folder)
    target = os.path.normpath(os.path.join(root, plain))
    if target == root or not _is_inside(root, target):
        raise ConceptFileError(f"{name!r} is outside the folder {root}; {_RULE}")
    return Path(target)


def _is_inside(root: str, target: str) -> bool:
    try:
        return os.path.commonpath((root, target)) == root
    except ValueError:  # another drive of Windows
        return False


_RULE = "use a plain name such as my-mug, or kitchen/my-mug for a subfolder."


def write_atomically(path: Path, chunks: Iterable[bytes | memoryview]) -> None:
    """Write a file atomically; an existing file stays until then.

    Raises:
        StorageError: the file cannot be written. No partial file remains.
    """
    part = path.with_name(_part_name())
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(part, "xb") as file:
            for chunk in chunks:
                file.write(chunk)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except OSError as error:
        raise StorageError(_describe(path, error)) from error
    finally:
        with suppress(OSError):
            part.unlink()
    _sync_folder(path.parent)


def ensure_writable(path: Path) -> None:
    """Check before long work that a file of this name could be written.

    Leaves nothing behind and does not modify an existing file.

    Raises:
        StorageError: the name or the path is too long for the file system, the disk is full or
            read-only, or writing is not allowed.
    """
    missing = [path.parent, *path.parent.parents]
    missing = list(itertools.takewhile(lambda folder: not os.path.lexists(folder), missing))
    part = path.with_name(_part_name())
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileNotFoundError):
            os.lstat(path)  # a name that is too long is an error, whether the file is there or not
        with open(part, "xb") as file:
            file.write(bytes(_PROBE_BYTES))
    except OSError as error:
        raise StorageError(_describe(path, error)) from error
    finally:
        with suppress(OSError):
            part.unlink()
        for folder in missing:
            with suppress(OSError):  # one that somebody filled meanwhile
                folder.rmdir()


_PROBE_BYTES = 4096  # a full disk still takes an empty file


def _part_name() -> str:
    """Name of a file while it is written; short for long names too."""
    return f".{uuid.uuid4().hex[:16]}.part"


def _sync_folder(folder: Path) -> None:
    """Make the new name survive a power failure, if folders can be synced."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def is_full(error: StorageError) -> bool:
    """Whether the disk or quota is full."""
    cause = error.__cause__
    return isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT)


def _describe(path: Path, error: OSError) -> str:
    reasons = {
        errno.ENOSPC: "the disk is full; free some space and queue again",
        errno.EDQUOT: "your disk quota is exceeded; free some space and queue again",
        errno.EACCES: "writing is not allowed there; choose another folder or change its "
        "permissions",
        errno.EROFS: "the disk is read-only; choose another folder",
        errno.ENAMETOOLONG: "the name is too long for this file system; choose a shorter one",
    }
    reason = reasons.get(error.errno or 0, str(error))
    return f"{path} could not be written: {reason}. An existing file is unchanged."
