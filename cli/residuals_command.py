"""`conceptloom train-residuals`: every setting of Personalized Residuals as an option."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .console import say
from .options import ON_WHITE, Device, Layout, Model, Precision, PrecisionName, StartName
from .output import writable_folder

Whole = int | None
Number = float | None
Switch = bool | None


def _option(help: str, name: str = "", short: str = "") -> typer.models.OptionInfo:
    return typer.Option(*(n for n in (name, short) if n), help=help, show_default=False)


def train_residuals(
    image: Annotated[
        list[Path], typer.Option("--image", "-i", help=f"A picture; repeat for several. {ON_WHITE}")
    ],
    handle: Annotated[str, typer.Option(help="Its name, <NAME> in prompts.")],
    class_word: Annotated[str, typer.Option("--class", help="What kind of thing it is.")] = "",
    caption: Annotated[
        list[str] | None,
        _option("For each picture one, {} where the concept stands; or none.", "--caption"),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            callback=writable_folder,
            help="Folder of the results; by default runs/NAME.",
        ),
    ] = None,
    model: Model = "tinyworld",
    layout: Layout = None,
    device: Device = "auto",
    precision: Precision = PrecisionName.FP32,
    steps: Annotated[Whole, _option("150; few learn little, many the background too.")] = None,
    batch_size: Annotated[Whole, _option("4; pictures a forward pass.")] = None,
    learning_rate: Annotated[Number, _option("0.001; on tinyworld 0.005.", "--rate")] = None,
    ratio: Annotated[Number, _option("Share of a layer's width; 0.05, on tinyworld 0.5.")] = None,
    start: Annotated[
        StartName | None, _option("How the factors begin; kaiming leaves the model as it is.")
    ] = None,
    prompt: Annotated[str | None, _option("Of all pictures, without --caption.")] = None,
    rare_token: Annotated[str | None, _option("Whose vector the name takes over.")] = None,
    train_handle: Annotated[Switch, _option("The name learns too; on tinyworld yes.")] = None,
    handle_rate: Annotated[Number, _option("Its rate.")] = None,
    flip: Annotated[Number, _option("Chance of mirroring; 0.")] = None,
    accumulation: Annotated[Whole, _option("Forward passes a step.")] = None,
    checkpointing: Annotated[Switch, _option("Less memory, a third slower.")] = None,
    resolution: Annotated[
        Whole,
        _option(
            "Side in px of a square cut from the middle: 64 for TinyWorld, 512 for SD 1.5, 1024 "
            "for SDXL; 0 keeps the size."
        ),
    ] = None,
    seed: Annotated[Whole, _option("Same seed, same machine: same file.")] = None,
    preview_every: Annotated[int, typer.Option(help="Steps between previews; 0 none.")] = 0,
    preview_steps: Annotated[int, typer.Option(help="Sampling steps of them.")] = 20,
) -> None:
    """Learn one concept from a few pictures, for LAG sampling (Personalized Residuals).

    Ctrl-C stops between two steps and keeps the work; the same command goes on from there.

        conceptloom train-residuals -i cat1.png -i cat2.png --handle my-cat --class cat

        conceptloom sample -c runs/my-cat/concept.safetensors -p "a <my-cat> cat on grass" --lag
    """
    wanted = dict(locals())
    from dataclasses import fields, replace

    from ..methods.personalized_residuals import PersonalizedResidualsConfig
    from ..training.adapters import Start
    from ..training.previews import PreviewConfig
    from ..training.recipe import LoopConfig
    from .models import TINYWORLD, open_host
    from .models import Precision as Computed
    from .picture_reader import read_image
    from .residuals_run import TINYWORLD_RESIDUALS, learn_into
    from .results import CONCEPT

    is_tiny = model == TINYWORLD
    wanted["resolution_px"] = wanted.pop("resolution")
    names = {field.name for field in fields(PersonalizedResidualsConfig)}
    given = {name: v for name, v in wanted.items() if name in names and v is not None}
    if start is not None:
        given["start"] = Start(start.value)
    base = TINYWORLD_RESIDUALS if is_tiny else PersonalizedResidualsConfig()
    learned = learn_into(
        out or Path("runs") / handle,
        open_host(model, layout=layout, device=device, precision=Computed(precision.value)),
        [read_image(path) for path in image],
        handle,
        class_word,
        replace(base, **given),
        captions=caption or [],
        loop=LoopConfig(preview_every=preview_every, save_every=50),
        previews=PreviewConfig(steps=preview_steps, cfg=3.0 if is_tiny else 7.5),
    )
    file = (out or Path("runs") / handle) / CONCEPT
    say(f"learned <{learned.concept.names[0]}>", "bold green")
    say(f"wrote {file}, with losses and pictures beside it")
    told = f"conceptloom sample -c {file} -p '{learned.concept.prompts[0]}' --lag"
    say(told if is_tiny else f"{told} -m {model}")
