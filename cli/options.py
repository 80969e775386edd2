"""Options that several commands share."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from .output import writable_file


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
        help="Base model: tinyworld (ships with the pack), tinyworld-anima, tinyworld-zimage, "
        "a folder in diffusers format, or a .safetensors file. Nothing is downloaded.",
    ),
]
Layout = Annotated[
    Path | None,
    typer.Option(
        help="For a single file: a folder of the same family in diffusers format. The file's own "
        "metadata takes precedence."
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
