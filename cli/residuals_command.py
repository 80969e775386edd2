"""`conceptloom train-residuals`: every setting of Personalized Residuals as an option."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .console import say
from .options import ON_WHITE, TINYWORLD, BaseModel, with_groups, writable_folder

if TYPE_CHECKING:
    from ..training.method_spec import RunSettings


def _option(help: str, name: str = "", short: str = "") -> typer.models.OptionInfo:
    return typer.Option(*(n for n in (name, short) if n), help=help, show_default=False)


@with_groups
def train_residuals(
    image: Annotated[
        list[Path],
        typer.Option(
            "--image",
            "-i",
            help="A picture of the object alone, since without masks the name stands for all that "
            f"the pictures share; repeat for several. {ON_WHITE}",
        ),
    ],
    handle: Annotated[str, typer.Option(help="Its name, written <NAME> in prompts.")],
    class_word: Annotated[str, typer.Option("--class", help="Class of the object.")] = "",
    caption: Annotated[
        list[str] | None,
        _option("One caption per picture, with {} in place of the concept; or none.", "--caption"),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            callback=writable_folder,
            help="Folder of the results; default: runs/NAME.",
        ),
    ] = None,
    *,
    base: BaseModel,
    **settings: Any,
) -> None:
    """Learn one concept from a few pictures, for LAG sampling (Personalized Residuals).

    Ctrl-C stops after a step and saves the progress; the same command resumes.

        conceptloom train-residuals -i cat1.png -i cat2.png --handle my-cat --class cat

        conceptloom sample -c runs/my-cat/concept.safetensors -p "a <my-cat> cat on grass" --lag
    """
    from ..methods.personalized_residuals import learn_residuals
    from .picture_reader import read_image
    from .results import CONCEPT, STATE, ResultFolder
    from .setting_options import changed_by_options
    from .training_run import pictures_of

    chosen = changed_by_options(_start(base.model), settings)
    out = out or Path("runs") / handle
    results = ResultFolder(out)
    host = base.open()
    learned = results.run(
        lambda progress, save: learn_residuals(
            host,
            [read_image(path) for path in image],
            handle,
            class_word,
            chosen.config,
            captions=caption or [],
            loop=chosen.loop,
            previews=chosen.previews,
            folder=out / STATE,
            save=save,
            progress=progress,
        )
    )
    prompts = chosen.previews.prompts or learned.concept.prompts
    results.write_pictures(**pictures_of(learned, prompts))
    file = out / CONCEPT
    say(f"learned <{learned.concept.names[0]}>", "bold green")
    say(f"saved {file}, with losses and pictures in the same folder")
    example = f"conceptloom sample -c {file} -p '{learned.concept.prompts[0]}' --lag"
    say(example if base.is_tinyworld else f"{example} -m {base.model}")


def _start(model: str) -> RunSettings:
    from ..methods.registry import settings_of_folder

    family = model if model == TINYWORLD else ""
    return settings_of_folder("personalized_residuals", family)


def residuals_with_options() -> Callable[..., Any]:
    """`train_residuals` with an option for each setting of the method."""
    from ..training.common_settings import LEARNING
    from .setting_options import with_options

    return with_options(train_residuals, {LEARNING: _start("")})
