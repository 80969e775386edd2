"""Trains on a scene from the command line and writes the pictures of the run."""

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
from ..viz.colors import RGB, concept_colours
from ..viz.overlays import sample_strip
from ..viz.plots import loss_plot
from ..viz.scene_preview import scene_preview
from .results import STATE, ResultFolder


def train(
    host: Host,
    scene: ConceptScene,
    settings: RunSettings,
    out: Path,
    *,
    class_images: Tensor | None = None,
) -> TrainingResult:
    """Learn a scene and write the results into a folder.

    `concept.safetensors`, `losses.csv`, `losses.png`, `timeline.png` (when previews were drawn),
    `samples.png`, `attention.png` and `scene.png`.

    Raises:
        ConceptLoomError, Stopped: see `ResultFolder.run`.
    """
    results = ResultFolder(out)
    learned = results.run(
        lambda progress, save: settings.learn(
            host,
            scene,
            class_images=class_images,
            folder=out / STATE,
            save=save,
            progress=progress,
        )
    )
    height, width = scene.images[0].image.shape[:2]
    step = host.pixels_per_latent
    prompts = settings.previews.prompts or learned.concept.prompts
    results.write_pictures(
        scene=scene_preview(scene, (height // step, width // step)),
        **pictures_of(learned, prompts, concept_colours(scene.names)),
    )
    return learned


def default_folder(names: Sequence[str]) -> Path:
    """runs/NAMES; where the names are too long for one folder, the first and a digest of all."""
    joined = "-".join(names)
    if len(joined.encode()) > LONGEST_PART:
        joined = f"{names[0]}-{hashlib.sha256(joined.encode()).hexdigest()[:8]}"
    return Path("runs") / joined


def pictures_of(
    learned: TrainingResult, prompts: Sequence[str], colours: Mapping[str, RGB] | None = None
) -> dict[str, Tensor | None]:
    """Name -> [H, W, 3], 0..1, of a training run; `prompts` belong to the samples."""
    samples = learned.samples
    return {
        "samples": None if samples is None else sample_strip(list(samples), prompts, colours),
        "losses": loss_plot(learned.history),
        "attention": learned.overlay,
        "timeline": learned.timeline,
    }
