"""Concept files: one .safetensors with all data of a concept.

Tensors `handle.<name>.<encoder>` and `adapter.<canonical module path>.<part>` with the parts diff
(of the weight), diff_b (of the bias), up and down, left and right; the rest is the JSON document of
`tensor_file`. Files are read without pickle, and all contents are checked first.
"""

from __future__ import annotations

import base64
import binascii
import io
from collections.abc import Mapping
from dataclasses import asdict, dataclass, is_dataclass
from pathlib import Path
from typing import Any, cast

import torch
from PIL import Image
from torch import Tensor

from ..errors import ConceptFileError
from .changes import Change, Kronecker, LowRank, scale_of
from .concept import Concept
from .concept_checks import (
    ADAPTER_KEY,
    FORMAT,
    HANDLE_KEY,
    check_document,
    check_keys,
    check_tensors,
    refusal,
    sorted_out,
    version_of,
)
from .tensor_file import Document, as_json, read_header, read_tensors, write_document

THUMBNAIL_PX = 256  # longer side
_LONGEST_THUMBNAIL = 1_000_000  # characters of base64
_BOMBS = (Image.DecompressionBombError, Image.DecompressionBombWarning)


def recipe_of(config: Any, **more: Any) -> dict[str, Any]:
    """Every field of a config dataclass (nested ones too) and `more`, as a concept stores it."""
    if is_dataclass(config) and not isinstance(config, type):
        config = asdict(config)
    return cast(dict[str, Any], as_json({**cast(dict[str, Any], config), **more}))


def save_concept(concept: Concept, path: Path) -> Path:
    """Write a concept file, atomically. The same concept gives the same bytes.

    Raises:
        StorageError: the file cannot be written; the previous file is unchanged.
        ConceptFileError: a weight has a name, or a tensor a value, that could not be read again.
    """
    tensors: dict[str, Tensor] = {}
    for name, vectors in concept.handles.items():
        for encoder, rows in vectors.items():
            tensors[f"handle.{name}.{encoder}"] = rows
    scales: dict[str, float] = {}
    for name, change in concept.weights.items():
        module, _, kind = name.rpartition(".")
        tensors |= _parts(module, kind, change)
        if scale_of(change) != 1:
            scales[module] = scale_of(change)
    tensors = {key: tensor.detach().float() for key, tensor in tensors.items()}
    check_tensors(path, tensors)
    write_document(path, tensors, _document(concept, scales, version_of(tensors)))
    return path


def _parts(module: str, kind: str, change: Change) -> dict[str, Tensor]:
    prefix = f"adapter.{module}"
    if isinstance(change, LowRank):
        return {f"{prefix}.up": change.up, f"{prefix}.down": change.down}
    if isinstance(change, Kronecker):
        return {f"{prefix}.left": change.left, f"{prefix}.right": change.right}
    if kind not in ("weight", "bias"):
        raise ConceptFileError(f"{module}.{kind} is neither a weight nor a bias.")
    return {f"{prefix}.{'diff' if kind == 'weight' else 'diff_b'}": change.tensor}


def _document(concept: Concept, scales: Mapping[str, float], version: int) -> Document:
    return {
        "base": concept.base,
        "format": FORMAT,
        "history": concept.history,
        "method": concept.method,
        "prompts": concept.prompts,
        "recipe": concept.recipe,
        "scales": scales,
        "seeds": concept.seeds,
        "thumbnail": "" if concept.thumbnail is None else _to_png(concept.thumbnail),
        "version": version,
        "words": concept.words,
    }


def load_concept(path: Path) -> Concept:
    """Read a concept file; tensors are float32 on the CPU.

    Raises:
        ConceptFileError: truncated, damaged, malicious, of a newer version, or of another
            kind, which the message names.
    """
    document, entries = read_header(path)
    check_document(path, document)
    check_keys(path, document, entries)
    tensors = read_tensors(path, document)
    check_tensors(path, tensors)
    handles, weights = sorted_out(path, tensors, document["scales"])
    return _concept(path, document, handles, weights)


@dataclass(frozen=True, slots=True)
class ConceptInfo:
    """The header of a concept file, without its tensors.

    Attributes:
        concept: handles and weights are empty.
        handles: name -> encoder -> number of vectors.
        weights: number of changed weights and biases.
        numbers: how many numbers the file holds.
        size_bytes: of the file.
    """

    concept: Concept
    handles: Mapping[str, Mapping[str, int]]
    weights: int
    numbers: int
    size_bytes: int


def read_concept_info(path: Path) -> ConceptInfo:
    """Look into a concept file quickly, for lists and previews; the checksum is not verified.

    Raises:
        ConceptFileError: as `load_concept`.
    """
    document, entries = read_header(path)
    check_document(path, document)
    check_keys(path, document, entries)
    handles: dict[str, dict[str, int]] = {}
    modules: set[tuple[str, bool]] = set()
    for key, entry in entries.items():
        if match := HANDLE_KEY.fullmatch(key):
            handles.setdefault(match[1], {})[match[2]] = entry.shape[0] if entry.shape else 0
        elif match := ADAPTER_KEY.fullmatch(key):
            modules.add((match[1], match[2] == "diff_b"))
    numbers = sum((e.end - e.begin) // e.dtype.itemsize for e in entries.values())
    concept = _concept(path, document, {}, {})
    return ConceptInfo(concept, handles, len(modules), numbers, path.stat().st_size)


def _concept(
    path: Path,
    document: Document,
    handles: Mapping[str, Mapping[str, Tensor]],
    weights: Mapping[str, Change],
) -> Concept:
    text = document["thumbnail"]
    try:
        thumbnail = _from_png(text) if text else None
    except ValueError as error:
        raise refusal(path, str(error)) from error
    return Concept(
        handles=handles,
        weights=weights,
        base=document["base"],
        method=document["method"],
        recipe=document["recipe"],
        seeds=document["seeds"],
        prompts=tuple(document["prompts"]),
        words=document["words"],
        history=document["history"],
        thumbnail=thumbnail,
    )


def _to_png(thumbnail: Tensor) -> str:
    """Base64 of a PNG of at most 256 px, from [H, W, 3], 0..1. Same picture, same text."""
    pixels = (thumbnail.detach().float().clamp(0, 1) * 255).round().byte().cpu().numpy()
    picture = Image.fromarray(pixels)
    if max(picture.size) > THUMBNAIL_PX:
        picture.thumbnail((THUMBNAIL_PX, THUMBNAIL_PX), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode()


def _from_png(text: str) -> Tensor:
    """[H, W, 3], 0..1, from what `_to_png` made.

    Raises:
        ValueError: it is anything else.
    """
    if len(text) > _LONGEST_THUMBNAIL:
        raise ValueError("its thumbnail is too large")
    try:
        raw = base64.b64decode(text, validate=True)
        with Image.open(io.BytesIO(raw), formats=["PNG"]) as picture:
            if max(picture.size) > THUMBNAIL_PX or picture.mode != "RGB":
                raise ValueError(f"its thumbnail is {picture.size}, {picture.mode}")
            size, data = picture.size, bytearray(picture.tobytes())
    except (binascii.Error, OSError, SyntaxError, *_BOMBS) as error:
        raise ValueError("its thumbnail is not a PNG") from error
    pixels = torch.frombuffer(data, dtype=torch.uint8).reshape(size[1], size[0], 3)
    return pixels.float() / 255
