"""Options that several commands share; places for results are tried before any work."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields, is_dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

if TYPE_CHECKING:
    from ..host.ports import Host

TINYWORLD = "tinyworld"  # the bundled model
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


@dataclass(frozen=True, kw_only=True, slots=True)
class BaseModel:
    """The base model of a command, and where it runs."""

    model: Annotated[
        str,
        typer.Option(
            "--model",
            "-m",
            help="Base model: tinyworld (ships with the pack), a folder in diffusers format or "
            "with Anima's published files, or a .safetensors file. Nothing is downloaded. "
            "(tinyworld-anima and tinyworld-zimage are not in this version; tinyworld/recipe "
            "trains them.)",
        ),
    ] = TINYWORLD
    layout: Annotated[
        Path | None,
        typer.Option(
            help="For a single file: a folder of the same family in diffusers format. The file's "
            "own metadata takes precedence. For Anima: a folder with what the model lacks, such as "
            "tokenizers, text encoder and VAE."
        ),
    ] = None
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps, ...")] = "auto"
    precision: Annotated[
        Precision,
        typer.Option(help="Precision of the model; trained parameters are always fp32."),
    ] = Precision.FP32

    @property
    def is_tinyworld(self) -> bool:
        return self.model == TINYWORLD

    def open(self) -> Host:
        """The loaded model; see `models.open_host`."""
        from .models import open_host

        return open_host(
            self.model, layout=self.layout, device=self.device, precision=self.precision
        )


def with_groups(function: Callable[..., None]) -> Callable[..., None]:
    """A command with an option for each field of the dataclasses among its parameters."""
    parameters: list[inspect.Parameter] = []
    groups: dict[str, Any] = {}
    for one in inspect.signature(function, eval_str=True).parameters.values():
        if not is_dataclass(one.annotation):
            parameters.append(one)
            continue
        groups[one.name] = one.annotation
        kinds = get_type_hints(one.annotation, include_extras=True)
        parameters += [
            inspect.Parameter(
                each.name, one.KEYWORD_ONLY, default=each.default, annotation=kinds[each.name]
            )
            for each in fields(one.annotation)
        ]

    def command(**values: Any) -> None:
        for name, group in groups.items():
            own = {each.name for each in fields(group)} & values.keys()
            values[name] = group(**{option: values.pop(option) for option in own})
        function(**values)

    return with_signature(command, function, parameters)


def with_signature(
    command: Callable[..., None],
    like: Callable[..., None],
    parameters: Iterable[inspect.Parameter],
) -> Callable[..., None]:
    """`command` with the name and the help of another, and these parameters for Typer to read."""
    free = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    every = [p if p.kind in free else p.replace(kind=p.KEYWORD_ONLY) for p in parameters]
    command.__name__, command.__doc__ = like.__name__, like.__doc__
    command.__annotations__ = {p.name: p.annotation for p in every}
    command.__signature__ = inspect.Signature(every)  # type: ignore[attr-defined]
    return command
