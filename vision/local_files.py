"""Loads networks from local folders, without downloads or pickles."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ..errors import ModelError
from .offload import fit_for_autograd


def described_folder(
    folder: Path, what: str, source: str, file: str = "config.json"
) -> Mapping[str, Any]:
    """The JSON file that describes a model's folder.

    Args:
        what: for the user: "BLIP-2".
        source: where the files come from: "Salesforce/blip2-flan-t5-xl".
        file: its name.

    Raises:
        ModelError: it does not exist or is not JSON.
    """
    path = folder / file
    if not path.is_file():
        raise ModelError(
            f"{folder} contains no {file}, so it is not a {what}. Copy the files of {source} "
            "(Hugging Face, safetensors) there unchanged, with their subfolders. ConceptLoom "
            "downloads nothing by itself."
        )
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelError(
            f"{path} cannot be read ({error}); copy it again from {source}."
        ) from error
    if not isinstance(description, dict):
        raise ModelError(f"{path} does not describe a model; copy it again from {source}.")
    return description


def check_kind(folder: Path, what: str, source: str, model_type: str) -> None:
    """Check that a folder contains this kind of transformers model.

    For another model, the library would initialise random weights and only warn.

    Raises:
        ModelError: it contains another model, or none.
    """
    received = described_folder(folder, what, source).get("model_type")
    if received != model_type:
        raise ModelError(
            f"{folder} contains a {received!r} instead of a {what}; choose the folder with the "
            f"files of {source}."
        )


def from_folder(kind: Any, folder: Path, dtype: torch.dtype | None = None) -> Any:
    """A network, scheduler, tokenizer or processor of a class, on the CPU.

    Args:
        dtype: of the weights; None for objects without weights.

    Raises:
        ModelError: a file is missing, damaged, or not safetensors.
    """
    weighty: dict[str, Any] = {"use_safetensors": True} if dtype is not None else {}
    # transformers leaves parts of some networks in float32 beside float16, and only its loader
    # knows which: cast whole, BLIP-2's Flan-T5 overflows and answers nonsense.
    its_own = dtype is not None and str(kind.__module__).startswith("transformers.")
    try:
        with fit_for_autograd():
            if its_own:  # the old name of the argument, which every version takes
                weighty["torch_dtype"] = dtype
            model = kind.from_pretrained(folder, local_files_only=True, **weighty)
            return model if dtype is None or its_own else model.to(dtype)
    except Exception as error:  # a file cut off in its middle has an error of its own library
        raise ModelError(
            f"{folder} could not be read as {kind.__name__}: {error} A file may be missing or "
            "truncated: copy it again. Weights must be .safetensors; pickle files (.bin, .ckpt) "
            "are not supported."
        ) from error
