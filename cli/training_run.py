"""Trains on a scene from the command line: run, result folder, clean stop."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor

from ..concepts.paths import LONGEST_PART
from ..host.ports import Host
from ..scenes.scene import ConceptScene
from ..training.method_spec import RunSettings
from ..training.runner import TrainingResult
from ..viz.colors import concept_colours
from ..viz.overlays import sample_strip
from ..viz.plots import loss_plot
from ..viz.scene_preview import scene_preview
from .cancelling import Cancelled, Stopped
from .progress import RunProgress
from .results import STATE, ResultFolder


def train(
    host: Host,
    scene: ConceptScene,
    settings: RunSettings,
    out: Path,
    *,
    class_images: Tensor | None = None,
) -> TrainingResult:
    """Learn a scene and leave the results in a folder.

    `concept.safetensors`, `losses.csv`, `losses.png`, `timeline.png` (when previews were drawn),
    `samples.png`, `attention.png` and `scene.png`. The states of the run are below `state/`; the
    same call goes on from there.

    Raises:
        Stopped: the user pressed Ctrl-C.
        ConceptLoomError: see `errors`.
    """
    results = ResultFolder(out)
    try:
        with RunProgress(out / "preview.png") as progress:
            learned = settings.learn(
                host,
                scene,
                class_images=class_images,
                folder=out / STATE,
                path_of=results.path_of,
                progress=progress,
            )
    except Cancelled as cancelled:
        raise Stopped(results.stopped_note(cancelled)) from cancelled
    results.check_saved(learned.concept, learned.path, learned.trouble)
    results.write_losses(learned.history)
    prompts = settings.previews.prompts or learned.concept.prompts
    for name, picture in pictures_of(host, scene, learned, prompts).items():
        results.write_picture(name, picture)
    return learned


def default_folder(names: Sequence[str]) -> Path:
    """runs/NAMES; where the names are too long for one folder, the first and a digest of all."""
    joined = "-".join(names)
    if len(joined.encode()) > LONGEST_PART:
        joined = f"{names[0]}-{hashlib.sha256(joined.encode()).hexdigest()[:8]}"
    return Path("runs") / joined


def pictures_of(
    host: Host, scene: ConceptScene, learned: TrainingResult, prompts: Sequence[str]
) -> Mapping[str, Tensor]:
    """What a run looks like: name -> [H, W, 3], 0..1; `prompts` belong to the samples."""
    height, width = scene.images[0].image.shape[:2]
    step = host.pixels_per_latent
    pictures = {
        "scene": scene_preview(scene, (height // step, width // step)),
        "losses": loss_plot(learned.history),
        "attention": learned.overlay,
    }
    if learned.samples is not None:
        colours = concept_colours(scene.names)
        pictures["samples"] = sample_strip(list(learned.samples), prompts, colours)
    if learned.timeline is not None:
        pictures["timeline"] = learned.timeline
    return pictures
