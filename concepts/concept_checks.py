"""Validates the contents of a concept file. All data from a file passes through here."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import ConceptFileError, HandleError
from ..host.prompt_text import NAME, composed
from ..host.roles import FIRST_NETWORKS, text_encoder_of
from .changes import Change, Diff, Kronecker, LowRank
from .handles import checked_names
from .tensor_file import Document, TensorEntry

FORMAT = "concept"
# What the first format cannot say is written as the second; everything else stays readable for
# those who have not updated. The second one names networks freely, the first knows a few; and the
# second one has Kronecker products.
FIRST_VERSION, VERSION = 1, 2
_PAIRS = {"up": "down", "left": "right"}  # parts of a change that belong together
_TEXT_LIMIT = 10_000  # characters of one prompt
_PROMPTS_LIMIT = 1_000
LARGEST_SCALE = 1e6

_NETWORK = "[a-z][a-z0-9_]{0,31}"  # a text encoder, or the network that draws
HANDLE_KEY = re.compile(rf"handle\.({NAME.pattern})\.({_NETWORK})")
ADAPTER_KEY = re.compile(
    rf"adapter\.({_NETWORK}(?:\.[A-Za-z0-9_]{{1,64}}){{1,12}})\.(diff|diff_b|up|down|left|right)"
)
_FIELDS: dict[str, type] = {
    "base": str,
    "format": str,
    "history": dict,
    "method": str,
    "prompts": list,
    "recipe": dict,
    "scales": dict,
    "seeds": dict,
    "sha256": str,
    "thumbnail": str,
    "version": int,
    "words": dict,
}


def refusal(path: Path, why: str) -> ConceptFileError:
    """An error that says why a file is refused."""
    return ConceptFileError(f"{path.name} is not a valid concept file: {why}.")


def check_document(path: Path, document: Document) -> None:
    """Refuse documents of another format or version, with unknown entries or odd types."""
    if document.get("format") == "training state":
        raise ConceptFileError(
            f"{path.name} is the saved state of a training run, not a concept: queue the trainer "
            "again with the same inputs to resume it."
        )
    version = document.get("version")
    if document.get("format") == FORMAT and type(version) is int and version > VERSION:
        raise ConceptFileError(
            f"{path.name} was written by a newer ConceptLoom (format {version}, this one reads up "
            f"to {VERSION}); update ConceptLoom."
        )
    is_known = type(version) is int and FIRST_VERSION <= version <= VERSION
    if document.get("format") != FORMAT or not is_known:
        raise refusal(
            path, f"its format is {document.get('format')!r:.40}, version {version!r:.40}"
        )
    if odd := sorted(_FIELDS.keys() ^ document.keys()):
        raise refusal(path, f"the entry {odd[0]!r:.80} is missing or unknown")
    for name, kind in _FIELDS.items():
        if type(document[name]) is not kind:
            raise refusal(path, f"{name} must be of the type {kind.__name__}")
    for what, texts in (
        ("method", [document["method"]]),
        ("base", [document["base"]]),
        ("prompts", document["prompts"]),
        ("words", [*document["words"], *document["words"].values()]),
        ("seeds", [*document["seeds"]]),
    ):
        if len(texts) > _PROMPTS_LIMIT or not all(_is_text(text) for text in texts):
            raise refusal(path, f"{what} contains a value that is not a text of usual length")
    if not all(type(seed) is int for seed in document["seeds"].values()):
        raise refusal(path, "a seed is not a whole number")
    scales = document["scales"].values()
    if not all(type(scale) in (int, float) and abs(scale) < LARGEST_SCALE for scale in scales):
        raise refusal(path, "a scale is not a number")


def _is_text(value: object) -> bool:
    if not isinstance(value, str) or len(value) > _TEXT_LIMIT or "\0" in value:
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def version_of(keys: Iterable[str]) -> int:
    """The oldest format that can name these tensors."""
    return FIRST_VERSION if all(map(_is_of_first, keys)) else VERSION


def _is_of_first(key: str) -> bool:
    match = ADAPTER_KEY.fullmatch(key)
    is_product = match is not None and match[2] in ("left", "right")
    return _network_of(key) in FIRST_NETWORKS and not is_product


def _network_of(key: str) -> str:
    """The text encoder of a handle, or the network of an adapter; "" for no name at all."""
    if match := HANDLE_KEY.fullmatch(key):
        return match[2] if text_encoder_of(match[2]) else ""
    match = ADAPTER_KEY.fullmatch(key)
    return match[1].partition(".")[0] if match else ""


def check_keys(path: Path, document: Document, entries: Mapping[str, TensorEntry]) -> None:
    """Refuse tensors with unknown names or of another precision, before they are read."""
    for key, entry in entries.items():
        if not _network_of(key) or version_of([key]) > document["version"]:
            raise refusal(path, f"it contains the unknown tensor {key!r:.80}")
        if entry.dtype != torch.float32:
            raise refusal(path, f"{key} is {entry.dtype} instead of torch.float32")


def check_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Refuse unknown names and values that are not numbers; before writing, too."""
    for key, tensor in tensors.items():
        if not _network_of(key):
            raise refusal(path, f"{key!r:.120} is not a known name")
        if not bool(torch.isfinite(tensor).all()):
            raise refusal(path, f"{key} contains NaN or infinite values")


def sorted_out(
    path: Path, tensors: Mapping[str, Tensor], scales: Mapping[str, Any]
) -> tuple[dict[str, dict[str, Tensor]], dict[str, Change]]:
    """Handles and weights from the tensors of a file; refuses what does not fit together."""
    handles: dict[str, dict[str, Tensor]] = {}
    weights: dict[str, Change] = {}
    for key in sorted(tensors):
        tensor = tensors[key]
        if match := HANDLE_KEY.fullmatch(key):
            if tensor.ndim != 2 or not tensor.numel():
                raise refusal(path, f"{key} has the shape {list(tensor.shape)}")
            handles.setdefault(composed(match[1]), {})[match[2]] = tensor
        elif match := ADAPTER_KEY.fullmatch(key):
            module, part = match.groups()
            weight = f"{module}.{'bias' if part == 'diff_b' else 'weight'}"
            if part in _PAIRS.values():  # read together with its first
                _check_has_first(path, module, part, tensors)
                continue
            if weight in weights:
                before = "left" if isinstance(weights[weight], Kronecker) else "diff"
                raise refusal(path, f"both {before} and {part} change {module}")
            if part in _PAIRS:
                scale = float(scales.get(module, 1.0))
                second = tensors.get(f"adapter.{module}.{_PAIRS[part]}")
                weights[weight] = _product(path, module, part, tensor, second, scale)
            else:
                if not 1 <= tensor.ndim <= 4 or not tensor.numel():
                    raise refusal(path, f"{key} has the impossible shape {list(tensor.shape)}")
                weights[weight] = Diff(tensor)
    try:
        checked_names(list(handles))
    except HandleError as error:
        raise refusal(path, str(error).rstrip(".")) from error
    if lost := [module for module in scales if f"{module}.weight" not in weights]:
        raise refusal(path, f"there is a scale for {lost[0]!r:.80} but no weight")
    return handles, weights


def _check_has_first(path: Path, module: str, part: str, tensors: Mapping[str, Tensor]) -> None:
    first = next(first for first, second in _PAIRS.items() if second == part)
    if f"adapter.{module}.{first}" not in tensors:
        raise refusal(path, f"{module} has a {part} but no {first}")


def _product(
    path: Path, module: str, part: str, first: Tensor, second: Tensor | None, scale: float
) -> LowRank | Kronecker:
    if second is None:
        raise refusal(path, f"{module} has {part} but no {_PAIRS[part]}")
    fits = first.ndim == 2 and second.ndim in (2, 4) and first.numel() and second.numel()
    if not fits or (part == "up" and first.shape[1] != second.shape[0]):
        raise refusal(
            path,
            f"{part} {list(first.shape)} and {_PAIRS[part]} {list(second.shape)} of {module} do "
            "not fit",
        )
    return (LowRank if part == "up" else Kronecker)(first, second, scale)
