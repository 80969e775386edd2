"""Options and doors that `invent`, `mix` and `evolve` share."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite, nan
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .options import PrecisionName
from .output import writable_folder

if TYPE_CHECKING:
    from ..vision.ports import PriorSampling
    from .laboratory import Laboratory

Name = Annotated[str, typer.Argument(help="Of the new handle: my-pet becomes <my-pet>.")]
Out = Annotated[
    Path | None,
    typer.Option("--out", "-o", callback=writable_folder, help="By default runs/NAME."),
]
Prior = Annotated[
    str,
    typer.Option(
        help="tinyworld, none (the model's text space), or a folder, which needs no --model."
    ),
]
Decoder = Annotated[Path | None, typer.Option(help="Folder of Kandinsky's decoder.")]
Vqa = Annotated[
    str | None,
    typer.Option(
        help="Who says what a picture shows: a folder of BLIP-2, none, or tinyworld, which knows "
        "pictures of TinyWorld alone and is the default there; else none."
    ),
]
Steps = Annotated[int, typer.Option(min=1, help="Official: 2500, for evolve 2000.")]
Rate = Annotated[float | None, typer.Option(help="Learning rate; 1e-4, on TinyWorld's prior 1e-2.")]
Every = Annotated[int, typer.Option(min=0, help="Steps between looks; 0 never.")]
PriorSteps = Annotated[int, typer.Option(min=2, help="Of the prior, in learning.")]
Guidance = Annotated[float, typer.Option(min=1.0, help="Of the prior; 1 is none.")]
Seed = Annotated[int, typer.Option(help="Same seed, same machine: same file.")]


def opened(
    prior: str,
    decoder: Path | None,
    vqa: str | None,
    sampling: PriorSampling,
    model: str,
    layout: Path | None,
    device: str,
    precision: PrecisionName,
) -> Laboratory:
    """The laboratory that the options ask for.

    Raises:
        ModelError: see `errors`.
    """
    from ..errors import ConfigError
    from .laboratory import NONE, from_folders, on_host
    from .models import TINYWORLD, Precision, device_of, open_host

    if vqa is None:
        vqa = TINYWORLD if model == TINYWORLD and prior in (TINYWORLD, NONE) else NONE
    if prior in (TINYWORLD, NONE):
        host = open_host(model, layout=layout, device=device, precision=Precision(precision.value))
        return on_host(host, prior, vqa)
    if precision is PrecisionName.BF16:
        raise ConfigError("precision", precision.value, "fp32 or fp16 for a prior from a folder")
    is_half = precision is PrecisionName.FP16
    return from_folders(Path(prior), decoder, vqa, sampling, device_of(device), half=is_half)


def rate_of(rate: float | None, prior: str) -> float:
    """What was asked for, or what fits the prior."""
    from .laboratory import RATE, TINYWORLD_RATE
    from .models import TINYWORLD

    if rate is not None:
        return rate
    return TINYWORLD_RATE if prior == TINYWORLD else RATE


def weighted(entries: Sequence[str]) -> tuple[tuple[str, ...], tuple[float, ...]]:
    """`lobster:2` as word and weight; without a number it is 1.

    Raises:
        ConfigError: there is no word, or what stands behind the colon is no number.
    """
    from ..errors import ConfigError

    found: dict[str, float] = {}
    for entry in entries:
        word, _, weight = map(str.strip, entry.partition(":"))
        try:
            found[word] = float(weight) if weight else 1.0
        except ValueError:
            found[word] = nan
        if not word or not isfinite(found[word]):
            raise ConfigError("a word", entry, "WORD or WORD:NUMBER, such as lobster:2")
    return tuple(found), tuple(found.values())
