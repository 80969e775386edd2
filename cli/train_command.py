"""`conceptloom train`: every setting of Break-A-Scene and of CLiC as an option."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .console import say
from .options import (
    ON_WHITE,
    Device,
    FormName,
    Layout,
    MethodName,
    Model,
    Precision,
    PrecisionName,
    PresetName,
    ScopeName,
)
from .output import writable_folder

_SCENE, _LEARN, _PRIOR, _SHOW, _LOOP = "Scene", "Learning", "Prior preservation", "Previews", "Loop"
_CLIC = "CLiC and Custom Diffusion"
_BANK = "Concept Weaver"
# what `train` takes that is no setting of the method
_ELSEWHERE = {
    *("image", "mask", "scene", "background", "class_image", "out"),
    *("model", "layout", "device", "precision", "preset", "method"),
}


def _option(panel: str, help: str, name: str = "", short: str = "") -> typer.models.OptionInfo:
    names = [n for n in (name, short) if n]
    return typer.Option(*names, help=help, rich_help_panel=panel, show_default=False)


Whole = int | None
Number = float | None
Words = str | None
Switch = bool | None


def train(
    image: Annotated[
        list[Path] | None,
        _option(_SCENE, f"A picture; repeat for several. {ON_WHITE}", "--image", "-i"),
    ] = None,
    mask: Annotated[
        list[str] | None,
        _option(
            _SCENE,
            "NAME=FILE or NAME=FILE:WORD, white where the concept is (of a picture with "
            "transparency: what is opaque; FILE#3 is class 3 of a label picture); repeat. The "
            "concept becomes <NAME> in prompts and starts from WORD. With several pictures give a "
            "NAME once for each, in their order; NAME=- where one does not show it.",
            "--mask",
        ),
    ] = None,
    scene: Annotated[
        Path | None,
        _option(_SCENE, "scene.json, or a folder with one, instead of the two above.", "--scene"),
    ] = None,
    background: Annotated[
        str, _option(_SCENE, "NAME or NAME:WORD; learn what no mask covers, too.")
    ] = "",
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            callback=writable_folder,
            help="Folder of the results; by default runs/NAMES.",
            rich_help_panel=_SCENE,
        ),
    ] = None,
    model: Model = "tinyworld",
    layout: Layout = None,
    device: Device = "auto",
    precision: Precision = PrecisionName.FP32,
    method: Annotated[
        MethodName,
        typer.Option(
            help="break-a-scene learns objects, clic a detail of one, concept-weaver what `weave` "
            "takes, from pictures of one object each."
        ),
    ] = MethodName.BREAK_A_SCENE,
    preset: Annotated[
        PresetName, typer.Option(help="Where all numbers below start; auto goes by the model.")
    ] = PresetName.AUTO,
    token_steps: Annotated[Whole, _option(_LEARN, "Phase 1: steps for the words alone.")] = None,
    token_rate: Annotated[Number, _option(_LEARN, "Its learning rate.")] = None,
    weight_steps: Annotated[Whole, _option(_LEARN, "Phase 2: steps for words and model.")] = None,
    weight_rate: Annotated[Number, _option(_LEARN, "Its rate; by default as scope needs.")] = None,
    scope: Annotated[ScopeName | None, _option(_LEARN, "What of the model learns.")] = None,
    rank: Annotated[Whole, _option(_LEARN, "Of low-rank: 4 small file, 64 learns more.")] = None,
    attention_weight: Annotated[Number, _option(_LEARN, "Of the attention loss; 0 none.")] = None,
    attention_level: Annotated[Whole, _option(_LEARN, "Of its maps: 1, 2, 4, 8; 0 picks.")] = None,
    masked_loss: Annotated[Switch, _option(_LEARN, "Learn only under the masks.")] = None,
    union_sampling: Annotated[Switch, _option(_LEARN, "Show several concepts at once.")] = None,
    prompt_prefix: Annotated[Words, _option(_LEARN, "Before the words, in training.")] = None,
    flip: Annotated[Number, _option(_LEARN, "Chance of mirroring: 0 never, 0.5 half.")] = None,
    resolution: Annotated[
        Whole,
        _option(
            _LEARN,
            "Side in px of a square as large as the picture is learned at: 64 for "
            "TinyWorld, 512 for SD 1.5, 1024 for SDXL; 0 as it is.",
        ),
    ] = None,
    batch_size: Annotated[Whole, _option(_LEARN, "Pictures a forward pass.")] = None,
    accumulation: Annotated[Whole, _option(_LEARN, "Forward passes a step.")] = None,
    checkpointing: Annotated[Switch, _option(_LEARN, "Less memory, a third slower.")] = None,
    seed: Annotated[Whole, _option(_LEARN, "Same seed, same machine: same file.")] = None,
    object_word: Annotated[Words, _option(_CLIC, "What carries the detail: chair, ring.")] = None,
    context_weight: Annotated[Number, _option(_CLIC, "Of l_context; 0 leaves it out.")] = None,
    roi_weight: Annotated[Number, _option(_CLIC, "Of l_RoI; 0 halves the work.")] = None,
    background_weight: Annotated[
        Number, _option(_CLIC, "Alpha: 0 sees the region only, 1 all alike.")
    ] = None,
    context_form: Annotated[
        FormName | None, _option(_CLIC, "Of l_context, where paper and authors' code differ.")
    ] = None,
    roi_form: Annotated[FormName | None, _option(_CLIC, "Of l_RoI, the same.")] = None,
    prompt: Annotated[
        Words, _option(_CLIC, "With {object} and {concept}; concept-weaver: {handle} and {word}.")
    ] = None,
    roi_prompt: Annotated[
        list[str] | None, _option(_CLIC, "Of the region alone, with {concept}; repeat.")
    ] = None,
    brightness: Annotated[Number, _option(_CLIC, "0 as it is, 0.5 half to one and a half.")] = None,
    random_scale: Annotated[Switch, _option(_CLIC, "Smaller and larger copies too.")] = None,
    views: Annotated[Whole, _option(_CLIC, "Altered copies of each picture.")] = None,
    detach_start: Annotated[Switch, _option(_CLIC, "Start tokens teach nothing.")] = None,
    smallest: Annotated[
        Number, _option(_BANK, "Of the random sizes of a picture; 1 leaves it as it is.")
    ] = None,
    prior_weight: Annotated[Number, _option(_PRIOR, "0 does without.")] = None,
    prior_prompt: Annotated[Words, _option(_PRIOR, "Of the class images.")] = None,
    class_image: Annotated[
        list[Path] | None, _option(_PRIOR, f"Your own class images; repeat. {ON_WHITE}")
    ] = None,
    class_draw: Annotated[Whole, _option(_PRIOR, "How many to draw; 0 none.")] = None,
    class_steps: Annotated[Whole, _option(_PRIOR, "Sampling steps of them.")] = None,
    class_cfg: Annotated[Number, _option(_PRIOR, "Guidance of them.")] = None,
    preview_every: Annotated[Whole, _option(_SHOW, "Steps between previews; 0 none.")] = None,
    preview_prompt: Annotated[list[str] | None, _option(_SHOW, "Repeat for several.")] = None,
    preview_steps: Annotated[Whole, _option(_SHOW, "Sampling steps.")] = None,
    preview_cfg: Annotated[Number, _option(_SHOW, "Guidance.")] = None,
    preview_seed: Annotated[Whole, _option(_SHOW, "Of their noise.")] = None,
    clip: Annotated[Number, _option(_LOOP, "Largest gradient norm; 0 does not clip.")] = None,
    weight_decay: Annotated[Number, _option(_LOOP, "Of AdamW.")] = None,
    save_every: Annotated[
        Whole, _option(_LOOP, "Steps between saved states; 0 at the end.")
    ] = None,
) -> None:
    """Learn words from pictures and masks: one per object (Break-A-Scene, Concept Weaver) or for a
    detail of one (CLiC).

    Ctrl-C stops between two steps and keeps the work; the same command goes on from there.

        conceptloom train -i kitchen.png --mask my-mug=mug.png:cup --mask my-cat=cat.png:cat

        conceptloom train --method clic -i bench.png --mask carving=carving.png --object-word bench

    A scene.json says the same for many pictures:
    {"pictures": [{"image": "a.png", "masks": {"my-mug": "mug.png"}}], "words": {"my-mug": "cup"}}
    """
    wanted = dict(locals())
    from ..errors import InputError
    from ..training.paths import ensure_writable
    from .models import TINYWORLD, open_host
    from .models import Precision as Computed
    from .picture_reader import read_images
    from .results import CONCEPT
    from .scene_files import scene_from_folder, scene_from_options
    from .train_settings import settings_from_options
    from .training_run import default_folder
    from .training_run import train as run

    if scene is not None and (image or mask or background):
        raise InputError(
            "Give either --scene, or --image, --mask and --background, not both; a scene.json "
            "names its own background."
        )
    wanted = {name: value for name, value in wanted.items() if name not in _ELSEWHERE}
    settings = settings_from_options(wanted, model, preset, method)
    taught = (
        scene_from_folder(scene)
        if scene is not None
        else scene_from_options(image or [], mask or [], background)
    )
    classes = read_images(class_image) if class_image else None
    out = out or default_folder(taught.names)
    ensure_writable(out / CONCEPT)  # before a large model is loaded
    host = open_host(model, layout=layout, device=device, precision=Computed(precision.value))
    learned = run(host, taught, settings, out, class_images=classes)
    say(f"learned {', '.join(f'<{name}>' for name in learned.concept.names)}", "bold green")
    for name, scores in learned.scores.items():
        say(f"<{name}> attention IoU {scores.iou:.2f}, leak {scores.leak:.2f}")
    say(f"wrote {out / CONCEPT}, with losses and pictures beside it")
    picture = f"conceptloom sample -c {out / CONCEPT} -p '{learned.concept.prompts[0]}'"
    say(picture if model == TINYWORLD else f"{picture} -m {model}")
