"""Options and helpers that `invent`, `mix` and `evolve` share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .options import TINYWORLD, BaseModel, Precision, writable_folder

if TYPE_CHECKING:
    from ..training.method_spec import MethodSpec, RunSettings
    from ..vision.ports import PriorSampling
    from .laboratory import ConceptLabBackend

Name = Annotated[str, typer.Argument(help="Name of the new handle: my-pet becomes <my-pet>.")]
Out = Annotated[
    Path | None,
    typer.Option(
        "--out", "-o", callback=writable_folder, help="Folder of the results; default: runs/NAME."
    ),
]
Vqa = Annotated[
    str | None,
    typer.Option(
        help="VQA model that names what a picture shows: a BLIP-2 folder, none, or tinyworld, "
        "which knows only TinyWorld's pictures and is the default there; otherwise none."
    ),
]


@dataclass(frozen=True, kw_only=True, slots=True)
class Networks:
    """The diffusion prior of a command, and its decoder."""

    prior: Annotated[
        str,
        typer.Option(
            help="tinyworld, none (the model's text space), or a folder, which needs no --model."
        ),
    ] = TINYWORLD
    decoder: Annotated[Path | None, typer.Option(help="Folder of the Kandinsky decoder.")] = None


def opened(
    networks: Networks, base: BaseModel, vqa: str | None, sampling: PriorSampling
) -> ConceptLabBackend:
    """The backend that the options select.

    Raises:
        ModelError: see `errors`.
    """
    from ..errors import ConfigError
    from .laboratory import NONE, from_folders, on_host
    from .models import device_of

    prior, precision = networks.prior, base.precision
    if vqa is None:
        vqa = TINYWORLD if base.is_tinyworld and prior in (TINYWORLD, NONE) else NONE
    if prior in (TINYWORLD, NONE):
        return on_host(base.open(), prior, vqa)
    if precision is Precision.BF16:
        raise ConfigError("precision", precision.value, "fp32 or fp16 for a prior from a folder")
    device, is_half = device_of(base.device), precision is Precision.FP16
    return from_folders(Path(prior), networks.decoder, vqa, sampling, device, half=is_half)


def chosen_settings(
    spec: MethodSpec, prior: str, options: Mapping[str, Any], **words: Any
) -> RunSettings:
    """The settings of a run: those of its prior, with what options say.

    Args:
        words: fields of the config without an option, such as positives and weights.

    Raises:
        ConfigError: a value is invalid.
    """
    from ..training.method_spec import TINYWORLD as TINYWORLD_FAMILY
    from ..training.method_spec import settings_for
    from .setting_options import changed_by_options

    start = settings_for(spec, TINYWORLD_FAMILY if prior == TINYWORLD else "")
    # The words first: what options say is checked against them.
    return changed_by_options(replace(start, config=replace(start.config, **words)), options)


def lab_command(
    function: Callable[..., Any], spec: MethodSpec, *without: str
) -> Callable[..., Any]:
    """A command with an option for each setting of ConceptLab.

    Args:
        without: names of settings without effect in it.
    """
    from ..training.common_settings import LEARNING
    from ..training.method_spec import settings_for
    from ..training.previews import PreviewConfig
    from ..training.setting import settings_in
    from .setting_options import with_options

    # Looks take the place of previews.
    previews = (one.name for one in settings_in(PreviewConfig()))
    hidden = {"preview_every", *previews, *without}
    return with_options(function, {LEARNING: settings_for(spec)}, without=hidden)
