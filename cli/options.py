"""Options that several commands share."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from .output import writable_file


class PrecisionName(str, Enum):
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
        help="Base model: tinyworld (comes with the pack), a folder that diffusers saved, or a "
        ".safetensors file. Nothing is downloaded.",
    ),
]
Layout = Annotated[
    Path | None,
    typer.Option(
        help="For a single file: a folder of the same family, as diffusers saves it. What the file "
        "says about itself counts more."
    ),
]
PictureOut = Annotated[
    Path | None,
    typer.Option(
        "--out",
        "-o",
        callback=writable_file,
        help="A PNG; more are numbered. By default the command's own name for it, or the next "
        "that is free.",
    ),
]
ON_WHITE = "Transparent parts are read as white."
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps, ...")]
Precision = Annotated[PrecisionName, typer.Option(help="Of the model; what learns is always fp32.")]
