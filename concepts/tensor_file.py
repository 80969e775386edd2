"""Tensors and one JSON document in a .safetensors file: same content, same bytes.

Any safetensors reader opens these files. We write them ourselves, not with the library, so that
the bytes do not depend on its version: keys are sorted, there are no dates, and tensors are
streamed, without a second copy of a large model in memory.

Layout: 8 bytes length of the header, header as JSON, tensor data without gaps. The document is the
header's `__metadata__["conceptloom"]`; its "sha256" covers itself, names, shapes and data.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..errors import ConceptFileError
from .file_sniffing import foreign_bytes, foreign_tensors
from .paths import write_atomically

KEY = "conceptloom"
HEADER_LIMIT = 32 * 1024**2  # bytes; a full SDXL concept needs less than one MB
_DEPTH_LIMIT = 32  # of nested lists and dicts in the document

_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}

Document = dict[str, Any]


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """One tensor of a file, before it is read."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    begin: int  # bytes from the start of the data
    end: int


def as_json(value: Any) -> Any:
    """A value as JSON values: enums by value, tuples as lists, numbers that are none as null."""
    if isinstance(value, Enum):
        return as_json(value.value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, (str, int, bool)):
        return value
    if isinstance(value, Mapping):
        return {str(key): as_json(item) for key, item in cast(Mapping[Any, Any], value).items()}
    if isinstance(value, (list, tuple)):
        return [as_json(item) for item in cast(list[Any], value)]
    raise TypeError(f"JSON has no form for {type(value).__name__}")


def _dumped(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def _bytes(tensor: Tensor) -> memoryview:
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return cast(Any, flat.view(torch.uint8).numpy()).data


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """A plain safetensors file, written atomically.

    Raises:
        StorageError: the file cannot be written.
        ConceptFileError: the header grew too large to be read again.
    """
    header, order = _header(tensors)
    if metadata:
        header["__metadata__"] = dict(metadata)
    text = _dumped(header).encode()
    text += b" " * (-len(text) % 8)
    if len(text) > HEADER_LIMIT:
        raise ConceptFileError(
            f"{path.name} would need {len(text):,} bytes for its description, more than the limit "
            f"of {HEADER_LIMIT:,}; shorten the prompts or the history."
        )

    def chunks() -> Iterator[bytes | memoryview]:
        yield len(text).to_bytes(8, "little")
        yield text
        for name in order:
            yield _bytes(tensors[name])

    write_atomically(path, chunks())


def _header(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Any], list[str]]:
    order = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    header: dict[str, Any] = {}
    begin = 0
    for name in order:
        tensor = tensors[name]
        end = begin + tensor.numel() * tensor.element_size()
        header[name] = {
            "dtype": _NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [begin, end],
        }
        begin = end
    return header, order


def write_document(path: Path, tensors: Mapping[str, Tensor], document: Document) -> None:
    """Tensors with a document, written atomically; raises as `write_tensors` does."""
    document = as_json(document)
    digest = _digest(document, tensors)
    write_tensors(path, tensors, {KEY: _dumped({**document, "sha256": digest})})


def _digest(document: Document, tensors: Mapping[str, Tensor]) -> str:
    header, order = _header(tensors)
    digest = hashlib.sha256(_dumped([document, header]).encode())
    for name in order:
        digest.update(_bytes(tensors[name]))
    return digest.hexdigest()


def read_header(path: Path) -> tuple[Document, dict[str, TensorEntry]]:
    """The document and the list of tensors, without reading them.

    Raises:
        ConceptFileError: not a file of ConceptLoom (the message says of which kind), or damaged.
    """
    try:
        size = path.stat().st_size
        with open(path, "rb") as file:
            start = file.read(512)
            length = int.from_bytes(start[:8], "little")
            if reason := foreign_bytes(start):
                raise ConceptFileError(f"{path.name} is not a concept file: {reason}")
            if size < 8 or length > min(size - 8, HEADER_LIMIT):
                raise ConceptFileError(_damaged(path, f"its {size:,} bytes have no valid header"))
            file.seek(8)
            text = file.read(length)
    except FileNotFoundError as error:
        raise ConceptFileError(
            f"There is no concept file {path}; check the name and the folder."
        ) from error
    except OSError as error:
        raise ConceptFileError(f"{path} cannot be read: {error.strerror or error}.") from error
    header = _parsed(path, text)
    metadata = header.pop("__metadata__", {})
    entries = {name: _entry(path, name, value) for name, value in header.items()}
    expected = 8 + length + max((entry.end for entry in entries.values()), default=0)
    if not isinstance(metadata, dict) or KEY not in metadata:
        shapes = {name: entry.shape for name, entry in entries.items()}
        raise ConceptFileError(f"{path.name} is not a concept file: {foreign_tensors(shapes)}")
    if size != expected:
        raise ConceptFileError(_damaged(path, f"it has {size:,} bytes instead of {expected:,}"))
    return _parsed(path, metadata[KEY]), entries


def _parsed(path: Path, text: str | bytes) -> dict[str, Any]:
    try:
        value = json.loads(text)
        plain = _is_plain(value, _DEPTH_LIMIT)
    except (ValueError, RecursionError, TypeError) as error:
        raise ConceptFileError(_damaged(path, "its description is not JSON")) from error
    if not isinstance(value, dict) or not plain:
        raise ConceptFileError(_damaged(path, "its description is not the expected JSON"))
    return cast(dict[str, Any], value)


def _is_plain(value: Any, depth: int) -> bool:
    if isinstance(value, dict):
        value = list(cast(dict[str, Any], value).values())
    if isinstance(value, float):
        return math.isfinite(value)
    if not isinstance(value, list):
        return True
    return depth > 0 and all(_is_plain(item, depth - 1) for item in cast(list[Any], value))


def _entry(path: Path, name: str, value: Any) -> TensorEntry:
    try:
        begin, end = value["data_offsets"]
        dtype, shape = _DTYPES.get(value["dtype"], torch.uint8), tuple(value["shape"])
        sound = all(type(n) is int and n >= 0 for n in (begin, end, *shape)) and end >= begin
    except (KeyError, TypeError, ValueError) as error:
        raise ConceptFileError(_damaged(path, f"its entry {name!r:.80} is invalid")) from error
    if not sound:
        raise ConceptFileError(_damaged(path, f"its entry {name!r:.80} is invalid"))
    return TensorEntry(dtype, shape, begin, end)


def read_tensors(path: Path, document: Document) -> dict[str, Tensor]:
    """Every tensor, after a check of the hash; in memory, not mapped.

    Raises:
        ConceptFileError: the file is damaged.
    """
    try:
        with safe_open(str(path), framework="pt") as file:
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, RuntimeError, ValueError, TypeError) as error:
        raise ConceptFileError(_damaged(path, str(error))) from error
    claimed = document.get("sha256")
    rest = {key: value for key, value in document.items() if key != "sha256"}
    try:
        checksum = _digest(rest, tensors)
    except (KeyError, ValueError) as error:  # a dtype that we never write, or NaN in the document
        raise ConceptFileError(_damaged(path, f"unexpected {error}")) from error
    if claimed != checksum:
        raise ConceptFileError(_damaged(path, "its checksum does not match its content"))
    return tensors


def _damaged(path: Path, why: str) -> str:
    return (
        f"{path.name} is damaged: {why}. It was truncated or changed during download or copying; "
        "download or copy it again."
    )
