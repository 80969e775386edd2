"""`conceptloom train` without its options: settings, run and result folder; batches use it too."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from ..concepts.paths import LONGEST_PART
from ..host.ports import Host
from ..methods.registry import settings_of_method
from ..scenes.scene import ConceptScene
from ..training.method_spec import TINYWORLD as TINYWORLD_FAMILY
from ..training.method_spec import RunSettings
from ..training.runner import TrainingResult
from ..viz.colors import RGB, concept_colours
from ..viz.overlays import sample_strip
from ..viz.plots import loss_plot
from ..viz.scene_preview import scene_preview
from .models import TINYWORLD
from .options import PresetName
from .results import STATE, ResultFolder
from .setting_options import changed_by_options

BREAK_A_SCENE = "break-a-scene"  # what `train` does unless asked otherwise


def settings_from_options(
    options: Mapping[str, Any],
    model: str,
    preset: PresetName = PresetName.AUTO,
    method: str = BREAK_A_SCENE,
) -> RunSettings:
    """Settings of a run, from the values of options; None among them takes the preset's.

    Args:
        options: named as on the command line, with _ for -; a scope is "handles", "kv", "cross",
            "low-rank" or "full".
        model: the base model; `PresetName.AUTO` goes by it.

    Raises:
        ConfigError: a value is invalid, or there is no such option or method.
    """
    is_asked = preset is PresetName.TINYWORLD
    is_tiny = is_asked or (preset is PresetName.AUTO and model == TINYWORLD)
    family = TINYWORLD_FAMILY if is_tiny else ""
    return changed_by_options(settings_of_method(method, family, is_strict=is_asked), options)


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
