"""Options that several commands share; places for results are tried before any work."""

from __future__ import annotations

import os
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

HERE = Path()


def writable_folder(out: Path | None) -> Path | None:
    """Callback of an option that names a folder; None is a folder below the current one.

    Raises:
        typer.BadParameter: nothing can be written there.
    """
    reason = _refusal(out or HERE)
    if reason and out is None:
        raise typer.BadParameter(
            f"this folder is not writable: {reason}. Name another folder with -o."
        )
    if reason:
        raise typer.BadParameter(f"{out} is not writable: {reason}. Name another folder.")
    return out


def writable_file(out: Path | None) -> Path | None:
    """The same for an option that names a file.

    Raises:
        typer.BadParameter: it cannot be written.
    """
    if out is None:
        return writable_folder(out)
    reason = "it is a folder" if out.is_dir() else _refusal(out.parent)
    if reason:
        raise typer.BadParameter(f"{out} is not writable: {reason}. Name another file.")
    return out


def _refusal(folder: Path) -> str:
    """Why a folder, which may not exist yet, is not writable; "" if it is."""
    whole = folder.absolute()
    nearest = next(path for path in (whole, *whole.parents) if os.path.lexists(path))
    if not nearest.is_dir():
        return f"{nearest} is not a folder"
    if not os.access(nearest, os.W_OK | os.X_OK):
        return f"writing is not allowed in {nearest}"
    return ""


class Precision(str, Enum):
    """Precision of UNet and text encoders; the VAE and trained parameters stay float32."""

    FP32 = "fp32"
    BF16 = "bf16"
    FP16 = "fp16"


class PresetName(str, Enum):
    AUTO = "auto"
    OFFICIAL = "official"
    TINYWORLD = "tinyworld"


Model = Annotated[
    str,
    typer.Option(
        "--model",
        "-m",
        help="Base model: tinyworld (ships with the pack), a folder in diffusers format or with "
        "Anima's published files, or a .safetensors file. Nothing is downloaded. (tinyworld-anima "
        "and tinyworld-zimage are not in this version; tinyworld/recipe trains them.)",
    ),
]
Layout = Annotated[
    Path | None,
    typer.Option(
        help="For a single file: a folder of the same family in diffusers format. The file's own "
        "metadata takes precedence. For Anima: a folder with what the model lacks, such as "
        "tokenizers, text encoder and VAE."
    ),
]
PictureOut = Annotated[
    Path | None,
    typer.Option(
        "--out",
        "-o",
        callback=writable_file,
        help="A PNG; further pictures are numbered. Default: the command's own name for it, or "
        "the next free one.",
    ),
]
ON_WHITE = "Transparent parts become white."
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps, ...")]
PrecisionOption = Annotated[
    Precision, typer.Option(help="Precision of the model; trained parameters are always fp32.")
]
