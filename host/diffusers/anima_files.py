"""Anima from local files: a folder of diffusers, or the files that its authors publish.

Those hold one network each: the transformer with its adapter, the text encoder, the VAE; a
checkpoint that ComfyUI saved holds all. They are told apart by the names of their weights. Only the
tokenizers need a folder of their own.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from ...errors import ModelError, UnsupportedModelError
from .anima_sizes import (
    ADAPTER,
    NETWORKS,
    TEXT,
    TITLES,
    TRANSFORMER,
    VAE,
    Shapes,
    is_of,
    part_in,
    width_of,
)

INDEX, PIPELINE = "modular_model_index.json", "AnimaModularPipeline"
TOKENIZERS = {  # component -> folders that may hold it; the second ones are ComfyUI's
    "tokenizer": ("tokenizer", "qwen25_tokenizer"),
    "t5_tokenizer": ("t5_tokenizer",),
}
SHIFT = 3.0  # of its noise levels, where no scheduler says another


@dataclass(frozen=True)
class Original:
    """One network in a file.

    Attributes:
        prefix: of its weights' names there.
        shapes: of its weights, by names without the prefix.
    """

    path: Path
    prefix: str
    shapes: Shapes


@dataclass(frozen=True)
class AnimaFiles:
    """Where each part of a model lies.

    Attributes:
        file: the parts of the file that was named as the model.
        folders: searched for all others, in this order.
    """

    model: Path
    file: Mapping[str, Original] = field(default_factory=dict[str, Original])
    folders: Sequence[Path] = ()

    def networks(self) -> dict[str, Original | Path]:
        """Each network: what a file has of it, or a folder in diffusers format.

        Raises:
            ModelError: one is missing, or there are several.
        """
        parts: dict[str, Original | Path] = {TRANSFORMER: self._network(TRANSFORMER)}
        parts[ADAPTER] = self._network(ADAPTER)
        width = width_of(ADAPTER, parts[ADAPTER])
        parts[TEXT] = self._network(TEXT, width)
        parts[VAE] = self._network(VAE, width_of(TRANSFORMER, parts[TRANSFORMER]))
        return parts

    def _network(self, part: str, width: int = 0) -> Original | Path:
        """One of them; it has to have this width, unless that is 0."""
        if part in self.file:
            return self.file[part]
        for folder in self.folders:
            if (folder / part / "config.json").is_file():
                return folder / part
            candidates = [
                original
                for original in _originals(folder, part)
                if not width or width_of(part, original) == width
            ]
            if len(candidates) > 1:
                names = ", ".join(str(one.path.relative_to(folder)) for one in candidates)
                raise ModelError(
                    f"{folder} has several files with {TITLES[part]}: {names}. {_one(part)}"
                )
            if candidates:
                return candidates[0]
        raise ModelError(
            f"{self.model} is an Anima model without {TITLES[part]}"
            f"{f' that is {width} wide' if width else ''}. {_missing(part, self.folders)}"
        )

    def tokenizer(self, name: str) -> Path:
        """The folder of a tokenizer.

        Raises:
            ModelError: there is none.
        """
        for folder in self.folders:
            for inner in TOKENIZERS[name]:
                if (folder / inner).is_dir():
                    return folder / inner
        searched = ", ".join(map(str, self.folders)) or "nowhere, without --layout"
        raise ModelError(
            f"{self.model} brings no tokenizer folder {name} (searched: {searched}). Pass --layout "
            "a folder with tokenizer and t5_tokenizer, as Anima's release for diffusers has them; "
            "they are small files."
        )

    def scheduler(self) -> Any:
        """With the shift that a folder states, or the family's."""
        from diffusers import FlowMatchEulerDiscreteScheduler

        for folder in self.folders:
            if (folder / "scheduler" / "scheduler_config.json").is_file():
                return FlowMatchEulerDiscreteScheduler.from_pretrained(
                    folder, subfolder="scheduler", local_files_only=True
                )
        return FlowMatchEulerDiscreteScheduler(shift=SHIFT)


def anima_files(model: Path, layout: Path | None) -> AnimaFiles | None:
    """The files of an Anima model; None for a model of another family. Reads headers only.

    Args:
        model: a folder, or a .safetensors file.
        layout: a folder that has what the model lacks.

    Raises:
        UnsupportedModelError: it is the model that Anima was made of.
    """
    folders = [] if layout is None else [layout]
    if model.is_dir():
        is_one = _is_pipeline(model) or (
            not any((model / name).exists() for name in ("model_index.json", INDEX))
            and any(True for _ in _originals(model, ADAPTER))
        )
        return AnimaFiles(model, {}, [model, *folders]) if is_one else None
    try:
        file = _parts_of(model)
    except ModelError:
        return None  # who reads it next says what is wrong with it
    if TRANSFORMER not in file:
        return None
    if ADAPTER not in file and not (layout is not None and _is_pipeline(layout)):
        raise UnsupportedModelError(
            f"{model} has the transformer of Cosmos-Predict2 and no adapter of Anima "
            "(llm_adapter). A transformer of Anima alone needs --layout with Anima's folder in "
            "diffusers format; Cosmos-Predict2 itself works in ComfyUI alone."
        )
    return AnimaFiles(model, file, folders)


def bytes_of(files: AnimaFiles, dtype: torch.dtype) -> int:
    """Memory that the networks take, from the headers of their files."""
    total = 0
    for name, place in files.networks().items():
        size = torch.float32.itemsize if name == VAE else dtype.itemsize
        total += size * sum(_numbers(place))
    return total


def _numbers(place: Original | Path) -> Iterator[int]:
    if isinstance(place, Original):
        yield from (torch.Size(shape).numel() for shape in place.shapes.values())
        return
    for file in sorted(place.glob("*.safetensors")):
        yield from (torch.Size(shape).numel() for shape in _shapes(file).values())


def _is_pipeline(folder: Path) -> bool:
    index = folder / INDEX
    if not index.is_file():
        return False
    return json.loads(index.read_text(encoding="utf-8")).get("_class_name") == PIPELINE


def _originals(folder: Path, part: str) -> Iterator[Original]:
    for path in sorted(folder.rglob("*.safetensors")):
        try:
            original = _parts_of(path).get(part)
        except ModelError:  # somebody else's; if it is ours, it is missed and told of
            continue
        if original is not None:
            yield original


def _parts_of(path: Path) -> dict[str, Original]:
    """Networks of a file, by its header."""
    shapes, parts = _shapes(path), dict[str, Original]()
    for part in NETWORKS:
        if (prefix := part_in(part, shapes)) is not None:
            own = {
                name.removeprefix(prefix): shape
                for name, shape in shapes.items()
                if name.startswith(prefix) and is_of(part, name.removeprefix(prefix))
            }
            parts[part] = Original(path, prefix, own)
    return parts


def _shapes(path: Path) -> dict[str, tuple[int, ...]]:
    try:
        with safe_open(str(path), framework="pt") as file:
            return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{path} could not be read as a base model: {error}") from error


def _one(part: str) -> str:
    if part in (TRANSFORMER, ADAPTER):
        return "Pass the one that you mean as --model, and this folder as --layout."
    return "Keep one of them in the folder, or pass another folder as --layout."


def _missing(part: str, folders: Sequence[Path]) -> str:
    if not folders:
        return (
            "Pass --layout a folder that has the other parts: Anima's folder in diffusers format, "
            "or one with the published files and the tokenizers."
        )
    return f"It was searched for in {', '.join(map(str, folders))}."
