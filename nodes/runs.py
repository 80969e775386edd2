"""Shared parts of the training nodes: the folder of a run, previews, outputs."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import folder_paths
from comfy_api.latest import io

from ..concepts.concept import Concept
from ..concepts.concept_file import save_concept
from ..concepts.low_rank import LowRank
from ..concepts.paths import confined_path, ensure_writable
from ..training.previews import PreviewConfig
from ..training.recipe import LoopConfig
from ..training.results import SaveConcept
from ..training.runner import TrainingResult
from ..viz.overlays import sample_strip
from ..viz.plots import loss_plot
from .concept_folders import SUFFIX
from .inputs import model_inputs
from .shared import applied, picture, shown
from .widgets import named_widgets

RUNS = Path("conceptloom", "runs")  # in ComfyUI's output folder


def run_folder(name: str) -> Path:
    """Folder for the states of a run, inside ComfyUI's output folder.

    Raises:
        ConceptFileError: the name leads out of it or is too long.
        StorageError: the folder is not writable.
    """
    root = Path(folder_paths.get_output_directory()) / RUNS
    folder = confined_path(root, name, SUFFIX).with_suffix("")
    ensure_writable(_concept_file(folder, "0" * _DIGITS))
    return folder


_DIGITS = 8  # of the digest in a file name


def _concept_file(folder: Path, digest: str) -> Path:
    return folder / f"{folder.name}-{digest[:_DIGITS]}{SUFFIX}"


def concept_saver(folder: Path) -> SaveConcept:
    """Saves a concept next to the states of its run; each result gets its own file."""

    def save(concept: Concept) -> Path:
        digest = hashlib.sha256()
        for name, vectors in concept.handles.items():
            digest.update(name.encode())
            for rows in vectors.values():
                digest.update(rows.numpy().tobytes())
        for change in concept.weights.values():  # names may stay; whole weights are many
            if isinstance(change, LowRank):
                digest.update(change.up.numpy().tobytes())
        return save_concept(concept, _concept_file(folder, digest.hexdigest()))

    return save


def saved_line(path: Path | None, trouble: str) -> str:
    """Line of the report: the path of the concept, or why it was not saved and how to save it."""
    if path is not None:
        return f"Saved: {path}"
    return (
        f"NOT SAVED: {trouble} The node's output still holds the concept; connect Save Concept "
        "before you close ComfyUI."
    )


def handed_out(
    cls: Any, model: Any, clip: Any, learned: TrainingResult, report: str
) -> io.NodeOutput:
    """CONCEPT, MODEL and CLIP that know it, samples, timeline, attention, plot, losses, report."""
    samples = learned.samples
    if samples is None:
        samples = picture(sample_strip([], []))
    timeline = learned.timeline
    if timeline is None:  # no preview was asked for
        timeline = sample_strip(list(samples), [""] * len(samples))
    pictures = map(picture, (timeline, learned.overlay, loss_plot(learned.history)))
    losses = {"loss": [row["total"] for row in learned.history]}
    models = applied(model, clip, learned.concept, strength=1.0)
    on_node = shown(cls, picture(learned.overlay) if learned.samples is None else samples, report)
    return io.NodeOutput(learned.concept, *models, samples, *pictures, losses, report, ui=on_node)


def models_to_train() -> list[io.Input]:
    """MODEL, CLIP and VAE of a trainer."""
    return model_inputs(
        "The base model: Stable Diffusion 1.x, 2.x or XL, Anima, Z-Image, Krea 2, or TinyWorld. "
        "The input model is not modified.",
        "The CLIP of the same checkpoint. The input CLIP is not modified.",
        "",
    )


def name_input(default: str) -> io.Input:
    """The name for `run_folder`."""
    return io.String.Input(
        "name",
        default=default,
        tooltip=f"Name of the folder output/{RUNS.as_posix()}/<name> for states, losses and the "
        "concept file. The same inputs resume from their own state there; other runs in the "
        "folder do not interfere.",
    )


def preview_inputs(every: int, when_empty: str) -> list[io.Input]:
    """The widgets of previews; `when_empty` describes the default prompts."""
    return [
        *named_widgets(LoopConfig(preview_every=every), "preview_every"),
        *named_widgets(
            PreviewConfig(),
            *("preview_prompts", "preview_steps", "preview_cfg"),
            preview_prompts=f"Prompts of the previews, one per line. Empty: {when_empty}",
        ),
        *named_widgets(LoopConfig(), "keep_state", optional=True),
    ]
