"""Finished work on disk: cells, concepts and measurements, each with a key of what made it.

Work that was stopped goes on, and nothing is done twice; another model, budget or variant has
another key. A file is there whole or not at all.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save
from torch import Tensor

from conceptloom.concepts.concept import Concept
from conceptloom.concepts.concept_file import load_concept, save_concept
from conceptloom.concepts.paths import write_atomically
from conceptloom.training.previews import PreviewConfig

from .machine import processor
from .results import RUNS

# Learners draw previews at their end, which nobody looks at here: one picture, one step.
NO_PREVIEW = PreviewConfig(steps=1, cfg=1.0, prompts=("a photo of an object",))


def short_digest(settings: object) -> str:
    """Twelve hex digits of anything that JSON or `str` can write."""
    text = settings if isinstance(settings, str) else json.dumps(settings, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def file_name(*parts: object) -> str:
    """A name without spaces and signs that shells or file systems mind."""
    text = " ".join(map(str, parts))
    return "".join(c for c in text.replace(" ", "-") if c.isalnum() or c in "-+._")


def keep(path: Path, tensors: Mapping[str, Tensor], key: str = "", **words: str) -> None:
    """Write a finished cell.

    Args:
        key: what it was made with.
        words: further text beside the tensors.
    """
    contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
    write_atomically(path, [save(contiguous, {"key": key, **words})])


def words_of(path: Path) -> dict[str, str]:
    """The text beside a cell's tensors."""
    with safe_open(path, framework="pt") as file:
        return file.metadata() or {}


def is_finished(path: Path, key: str = "") -> bool:
    """Whether a cell is there and was made with this key."""
    return path.is_file() and words_of(path).get("key", "") == key


def kept_tensors(
    path: Path, key: str, make: Callable[[], Mapping[str, Tensor]]
) -> dict[str, Tensor]:
    """The tensors of a cell, from its file or made now."""
    if not is_finished(path, key):
        keep(path, make(), key)
    return load_file(path)


def as_bytes(images: Tensor) -> Tensor:
    """Pictures 0..1 in eight bits, as everybody sees them."""
    return (images.clamp(0, 1) * 255).round().byte()


def as_floats(images: Tensor) -> Tensor:
    return images.float() / 255


def kept_pictures(path: Path, draw: Callable[[], Iterable[Tensor]]) -> list[Tensor]:
    """Pictures [n, H, W, 3], 0..1, of one prompt after the other: from the file, or drawn now."""
    kept = kept_tensors(
        path, "", lambda: {f"{n:03d}": as_bytes(images) for n, images in enumerate(draw())}
    )
    return [as_floats(kept[f"{n:03d}"]) for n in range(len(kept))]


def kept_concept(path: Path, learn: Callable[[], Concept]) -> Concept:
    """A concept from its file, or learned now."""
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        save_concept(learn(), path)
    return load_concept(path)


def kept_json(name: str, settings: Mapping[str, object], make: Callable[[], Any]) -> Any:
    """A measurement of this name with these settings on this machine, or made now."""
    asked = {key: str(value) for key, value in settings.items()}
    asked |= {"machine": processor("cpu"), "torch": version("torch")}
    file = RUNS / f"{name}-{short_digest(asked)}.json"
    if not file.is_file():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(make()), encoding="utf-8")
    return json.loads(file.read_text(encoding="utf-8"))


def save_sheet(picture: Tensor, path: Path, scale: int = 1) -> None:
    """Write a picture [H, W, 3], 0..1, as JPEG."""
    from PIL import Image

    pixels = as_bytes(picture).numpy()
    path.parent.mkdir(parents=True, exist_ok=True)
    enlarged = pixels.repeat(scale, axis=0).repeat(scale, axis=1)
    Image.fromarray(enlarged).save(path, quality=90)


def one_thread() -> None:
    """Tiny models lose more by sharing work between threads than they win."""
    torch.set_num_threads(1)
