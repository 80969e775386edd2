"""`conceptloom train`: every setting of every method that learns from a scene as an option."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from .console import say
from .options import ON_WHITE, BaseModel, PresetName, with_groups, writable_folder

_SCENE, _PRIOR = "Scene", "Prior preservation"  # panels


def _option(panel: str, help: str, name: str = "", short: str = "") -> typer.models.OptionInfo:
    names = [n for n in (name, short) if n]
    return typer.Option(*names, help=help, rich_help_panel=panel, show_default=False)


@with_groups
def train(
    image: Annotated[
        list[Path] | None,
        _option(_SCENE, f"A picture; repeat for several. {ON_WHITE}", "--image", "-i"),
    ] = None,
    mask: Annotated[
        list[str] | None,
        _option(
            _SCENE,
            "NAME=FILE or NAME=FILE:WORD; white is the concept (in a picture with transparency, "
            "the opaque part; FILE#3 is class 3 of a label picture). Repeat for several. The "
            "concept becomes <NAME> in prompts and starts from WORD. With several pictures, pass "
            "each NAME once per picture, in order; NAME=- if a picture does not show it.",
            "--mask",
        ),
    ] = None,
    scene: Annotated[
        Path | None,
        _option(
            _SCENE, "scene.json, or a folder with one, instead of --image and --mask.", "--scene"
        ),
    ] = None,
    background: Annotated[
        str, _option(_SCENE, "NAME or NAME:WORD; also learn the area outside all masks.")
    ] = "",
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            callback=writable_folder,
            help="Folder of the results; default: runs/NAMES.",
            rich_help_panel=_SCENE,
        ),
    ] = None,
    *,
    base: BaseModel,
    preset: Annotated[
        PresetName,
        typer.Option(help="Defaults of the settings below; auto selects them by the model."),
    ] = PresetName.AUTO,
    class_image: Annotated[
        list[Path] | None,
        _option(_PRIOR, f"Your own class pictures; repeat for several. {ON_WHITE}"),
    ] = None,
    method: Any = None,
    **settings: Any,
) -> None:
    """Learn a word for each masked object (Break-A-Scene, Concept Weaver) or for a detail (CLiC).

    Ctrl-C stops after a step and saves the progress; the same command resumes.

        conceptloom train -i kitchen.png --mask my-mug=mug.png:cup --mask my-cat=cat.png:cat

        conceptloom train --method clic -i bench.png --mask carving=carving.png --object-word bench

    A scene.json describes many pictures:
    {"pictures": [{"image": "a.png", "masks": {"my-mug": "mug.png"}}], "words": {"my-mug": "cup"}}
    """
    from ..concepts.paths import ensure_writable
    from ..errors import InputError
    from .picture_reader import read_images
    from .results import CONCEPT
    from .scene_files import scene_from_folder, scene_from_options
    from .training_run import default_folder, settings_from_options
    from .training_run import train as run

    if scene is not None and (image or mask or background):
        raise InputError(
            "Use either --scene, or --image, --mask and --background, not both; a scene.json "
            "names its own background."
        )
    chosen = settings_from_options(settings, base.model, preset, method.value)
    taught = (
        scene_from_folder(scene)
        if scene is not None
        else scene_from_options(image or [], mask or [], background)
    )
    classes = read_images(class_image) if class_image else None
    out = out or default_folder(taught.names)
    ensure_writable(out / CONCEPT)  # before a large model is loaded
    host = base.open()
    learned = run(host, taught, chosen, out, class_images=classes)
    say(f"learned {', '.join(f'<{name}>' for name in learned.concept.names)}", "bold green")
    for name, scores in learned.scores.items():
        say(f"<{name}> attention IoU {scores.iou:.2f}, leak {scores.leak:.2f}")
    say(f"saved {out / CONCEPT}, with losses and pictures in the same folder")
    picture = f"conceptloom sample -c {out / CONCEPT} -p '{learned.concept.prompts[0]}'"
    say(picture if base.is_tinyworld else f"{picture} -m {base.model}")


def train_with_options() -> Callable[..., Any]:
    """`train` with the installed methods and an option for each of their settings."""
    from ..methods.registry import method_options, method_specs
    from ..training.method_spec import Takes, run_settings
    from .setting_options import names_of, option, with_options
    from .training_run import BREAK_A_SCENE

    specs = method_specs(Takes.SCENE)
    words = names_of(method_options())
    methods = ", ".join(f"{spec.presets[0].option} {spec.summary}" for spec in specs)
    method = option("method", words, f"{methods}.", default=words(BREAK_A_SCENE))
    runs = {spec.title: run_settings(spec, spec.presets[0]) for spec in specs}
    return with_options(train, runs, method)
