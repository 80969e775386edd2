"""From a scene to a concept in one call; what nodes and command line share."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from ...attention.localisation import LocalisationScores
from ...errors import StorageError
from ...host.ports import Host, Progress, no_progress
from ...samplers.class_images import drawn_class_latents, encoded_class_latents
from ...training.checkpoints import StateFolder, content_key, model_digest
from ...training.concept import Concept
from ...training.estimate import Estimate, estimate_of
from ...training.loop import run
from ...training.previews import PreviewConfig, Previews
from ...training.recipe import Events, LoopConfig
from ...training.reports import TensorBoardLog, write_csv
from ...training.scene import ConceptScene
from .config import BreakASceneConfig
from .recipe import BreakAScene

log = logging.getLogger("conceptloom")

# float16 loses gradients below 6e-8; masters are float32, so scaling there and back is exact.
HALF_PRECISION_SCALE = 1024.0


@dataclass(frozen=True, kw_only=True, slots=True)
class ClassImages:
    """Pictures for prior preservation: given, or drawn by the base model."""

    images: Tensor | None = None  # [P, H, W, 3], 0..1, at the size of the scene
    draw: int = 100  # how many to draw when none are given; 0 does without (train.py:150)
    steps: int = 50
    cfg: float = 7.5


@dataclass(frozen=True, slots=True)
class Learned:
    """All that a run leaves behind."""

    concept: Concept
    history: Sequence[Mapping[str, float]]  # one row a step
    samples: Tensor  # [n, H, W, 3] last pictures of the fixed seed
    timeline: Tensor | None  # [H, W, 3] the pictures of every preview
    overlay: Tensor  # [H, W, 3] attention of every handle over its picture
    scores: Mapping[str, LocalisationScores] = field(default_factory=dict)


def learn_scene(
    host: Host,
    scene: ConceptScene,
    config: BreakASceneConfig,
    *,
    loop: LoopConfig | None = None,
    class_images: ClassImages | None = None,
    previews: PreviewConfig | None = None,
    folder: Path | None = None,
    progress: Progress = no_progress,
) -> Learned:
    """Learn the concepts of a scene with Break-A-Scene.

    Args:
        folder: where states, CSV and TensorBoard files go, in a folder of their own for these
            very inputs, so that the same call goes on where it was stopped. None keeps nothing.
        progress: told of every step; may raise to cancel.

    Raises:
        InputError, TrainingError: see `errors`; the state so far is in `folder`.
    """
    scale = HALF_PRECISION_SCALE if host.dtype is torch.float16 else 1.0
    loop = replace(
        loop or LoopConfig(), seed=config.seed, accumulation=config.accumulation, loss_scale=scale
    )
    recipe = BreakAScene(host, scene, config)
    total = sum(phase.steps for phase in recipe.phases())
    given = class_images or ClassImages()
    progress(0, total, _estimate(recipe, given).told(total))
    recipe.class_latents = _class_latents(recipe, given, progress)
    settings, level = previews or PreviewConfig(), recipe.sites[0].level
    shown = Previews(host, recipe.scene, recipe.handles.vectors, settings, level)
    kept = _kept(folder, recipe, loop, given)
    with _log(kept) as written:
        events = Events(progress, written.scalars if written else _ignore, shown)
        state = run(recipe, loop, events, kept)
    if kept:
        _write_losses(state.history, kept.folder / "losses.csv")
    with recipe.computing(recipe.phases()[-1]):
        samples, overlay = shown.samples(), shown.overlay()
    concept = recipe.concept(state.history, thumbnail=samples[-1])
    return Learned(concept, state.history, samples, shown.timeline(), overlay, shown.scores)


def _write_losses(history: Sequence[Mapping[str, float]], path: Path) -> None:
    """The CSV file; a disk that is full costs the file and not the concept."""
    try:
        write_csv(history, path)
    except StorageError as error:
        log.warning("%s", error)


def _estimate(recipe: BreakAScene, given: ClassImages) -> Estimate:
    prior = recipe.config.prior_weight and (given.images is not None or given.draw)
    rows = recipe.config.batch_size * (2 if prior else 1)
    parameters = recipe.named_parameters().values()
    checkpointing = recipe.config.checkpointing
    host, size = recipe.host, recipe.latent_size
    return estimate_of(host, parameters, size, rows, checkpointing=checkpointing)


def _class_latents(recipe: BreakAScene, given: ClassImages, progress: Progress) -> Tensor | None:
    if not recipe.config.prior_weight:
        return None
    if given.images is not None:
        return encoded_class_latents(recipe.host, given.images, recipe.size_px)
    if not given.draw:
        return None
    return drawn_class_latents(
        recipe.host,
        recipe.config.prior_prompt,
        given.draw,
        recipe.size_px,
        seed=recipe.config.seed,
        steps=given.steps,
        cfg=given.cfg,
        progress=progress,
    )


def _kept(
    folder: Path | None, recipe: BreakAScene, loop: LoopConfig, given: ClassImages
) -> StateFolder | None:
    """The folder of this very run: other pictures or settings have another one."""
    if folder is None:
        return None
    pictures = recipe.scene.images
    inputs = {
        "images": [p.image for p in pictures],
        "masks": [mask for p in pictures for mask in p.masks.values()],
        "class images": given.images if given.images is not None else [],
    }
    names = [list(p.masks) for p in pictures]
    numerics = {name: value for name, value in asdict(loop).items() if not name.endswith("_every")}
    drawn = [given.draw, given.steps, given.cfg]
    settings = [asdict(recipe.config), numerics, dict(recipe.scene.words), names, drawn]
    return StateFolder(folder, content_key(model_digest(recipe.host), settings, inputs))


@contextmanager
def _log(kept: StateFolder | None) -> Iterator[TensorBoardLog | None]:
    if kept is None:
        yield None
        return
    with TensorBoardLog(kept.folder / "tensorboard") as log:
        yield log


def _ignore(row: Mapping[str, float]) -> None:
    """For runs that keep no files."""
