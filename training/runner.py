"""Runs a recipe: the steps around the training loop, shared by scene methods."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from ..attention.metrics import LocalisationScores
from ..concepts.concept import Concept
from ..concepts.fingerprints import content_key, model_digest
from ..errors import StorageError
from ..host.ports import Host, Progress
from ..host.roles import check_learns
from ..scenes.scene import ConceptScene
from .checkpoints import StateFolder
from .loop import run
from .previews import Previews
from .recipe import Events, LoopConfig, Recipe
from .reports import TensorBoardLog, write_csv
from .results import ResultFile, SaveConcept

log = logging.getLogger("conceptloom")

# float16 loses gradients below 6e-8; masters are float32, so scaling there and back is exact.
HALF_PRECISION_SCALE = 1024.0


@dataclass(frozen=True, slots=True)
class TrainingResult:
    """The result of a training run."""

    concept: Concept
    history: Sequence[Mapping[str, float]]  # one row a step
    samples: Tensor | None  # [n, H, W, 3] last pictures of the fixed seed, if any were asked for
    timeline: Tensor | None  # [H, W, 3] the pictures of every preview
    overlay: Tensor  # [H, W, 3] attention of every handle over its picture
    scores: Mapping[str, LocalisationScores] = field(default_factory=dict)
    path: Path | None = None  # of the concept file, where one was asked for and could be written
    trouble: str = ""  # why there is none, for the user
    estimate: str = ""  # what the run was expected to need
    states: str = ""  # which of its states are left, and their size


class ConceptRecipe(Recipe, Protocol):
    """A recipe that produces a concept."""

    def concept(self, history: Sequence[Mapping[str, float]], thumbnail: Tensor | None) -> Concept:
        """The learned concept, ready to be saved."""
        ...


def loop_for(host: Host, loop: LoopConfig | None, *, seed: int, accumulation: int) -> LoopConfig:
    """The loop's settings with those of a method, and loss scaling for float16.

    Raises:
        UnsupportedModelError: the model is distilled to a few steps.
    """
    if warning := check_learns(host.sites, host.origin):
        log.warning("%s", warning)
    scale = HALF_PRECISION_SCALE if host.dtype is torch.float16 else 1.0
    return replace(loop or LoopConfig(), seed=seed, accumulation=accumulation, loss_scale=scale)


def state_folder(
    folder: Path | None,
    host: Host,
    scene: ConceptScene,
    loop: LoopConfig,
    settings: Sequence[Any],
    more: Mapping[str, Tensor | Sequence[Tensor]] | None = None,
) -> StateFolder | None:
    """The folder of this very run: other pictures or settings have another one.

    Args:
        folder: its parent; None saves nothing.
        scene: at training size.
        settings: all other settings that affect the result, as JSON values.
        more: tensors that affect it too, by stable names.

    Raises:
        StorageError: the folder is not writable.
    """
    if folder is None:
        return None
    inputs = {
        "images": [p.image for p in scene.images],
        "masks": [mask for p in scene.images for mask in p.masks.values()],
        **(more or {}),
    }
    names = [list(p.masks) for p in scene.images]
    every = [settings[0], loop.numerics, dict(scene.words), names, *settings[1:]]
    state_dir = StateFolder(folder, content_key(model_digest(host), every, inputs))
    state_dir.ensure_writable()
    return state_dir


def run_training(
    recipe: ConceptRecipe,
    loop: LoopConfig,
    preview: Previews,
    state_dir: StateFolder | None,
    progress: Progress,
    save: SaveConcept | None = None,
    estimate: str = "",
) -> TrainingResult:
    """Run a recipe to its end, resuming from a saved state, and draw the final previews.

    Args:
        save: writes the concept file; called as soon as learning ends, and once more with a
            picture when that is drawn: cancelling the drawing loses only pictures.

    Raises:
        TrainingError: see `training.loop.run`.
    """
    preview.progress = progress
    with _log(state_dir) as written:
        events = Events(progress, written.scalars if written else _ignore, preview)
        history = run(recipe, loop, events, state_dir).history  # and not its optimizer's memory
    concept, result = recipe.concept(history, None), ResultFile(save, state_dir)
    result.save(concept)
    if state_dir:
        write_losses(history, state_dir.folder / "losses.csv")
    with recipe.computing(recipe.phases()[-1]):
        samples = preview.last_samples(len(history)) if loop.previews_of(len(history)) else None
        overlay = preview.overlay()
    if samples is not None:
        concept = replace(concept, thumbnail=samples[-1])
        result.save(concept)
    states = state_dir.finish(keep=loop.keep_state or result.path is None) if state_dir else ""
    outcome = (samples, preview.timeline(), overlay, preview.scores)
    return TrainingResult(concept, history, *outcome, result.path, result.trouble, estimate, states)


def write_losses(history: Sequence[Mapping[str, float]], path: Path) -> None:
    """Write the CSV file; a full disk causes only a warning."""
    try:
        write_csv(history, path)
    except StorageError as error:
        log.warning("%s", error)


@contextmanager
def _log(state_dir: StateFolder | None) -> Iterator[TensorBoardLog | None]:
    if state_dir is None:
        yield None
        return
    with TensorBoardLog(state_dir.folder / "tensorboard") as log:
        yield log


def _ignore(row: Mapping[str, float]) -> None:
    """Does nothing, for runs without files."""
