"""Train on a scene with one call, for nodes and command line."""

from __future__ import annotations

import logging
from dataclasses import asdict
from pathlib import Path

from torch import Tensor

from ...host.ports import Host, Progress, no_progress
from ...samplers.class_images import class_latents_of, encoded_class_latents
from ...scenes.scene import ConceptScene
from ...training.checkpoints import StateFolder
from ...training.estimate import report_estimate
from ...training.previews import PreviewConfig, Previews
from ...training.recipe import LoopConfig
from ...training.results import SaveConcept
from ...training.runner import TrainingResult, loop_for, run_training, state_folder
from .config import BreakASceneConfig
from .recipe import BreakAScene

log = logging.getLogger("conceptloom")


def learn_scene(
    host: Host,
    scene: ConceptScene,
    config: BreakASceneConfig,
    *,
    loop: LoopConfig | None = None,
    class_images: Tensor | None = None,
    previews: PreviewConfig | None = None,
    folder: Path | None = None,
    save: SaveConcept | None = None,
    progress: Progress = no_progress,
) -> TrainingResult:
    """Learn the concepts of a scene with Break-A-Scene.

    Args:
        class_images: [P, H, W, 3], 0..1, at the size of the scene, for prior preservation; None
            draws them with `config.class_images`.
        folder: where states, CSV and TensorBoard files go, in a subfolder for exactly
            these inputs, so that the same call resumes. None saves nothing.
        save: writes the concept file; called before anything is drawn.
        progress: called after every step; may raise to cancel.

    Raises:
        InputError, TrainingError: see `errors`; `folder` contains the state so far.
    """
    loop = loop_for(host, loop, seed=config.seed, accumulation=config.accumulation)
    recipe = BreakAScene(host, scene, config, progress)
    preview = Previews(
        host, recipe.scene, recipe.handles.vectors, previews or PreviewConfig(),
        recipe.sites[0].downsample,
    )  # fmt: skip
    # The user sees the estimate before the model draws class images, which can take minutes.
    estimate = report_estimate(
        recipe, _rows(config, class_images), loop, preview, progress,
        folder=folder, more_passes=_passes(config, class_images),
    )  # fmt: skip
    state_dir = _state_folder(folder, recipe, loop, class_images)
    recipe.class_latents = _class_latents(recipe, class_images, state_dir, progress)
    return run_training(recipe, loop, preview, state_dir, progress, save, estimate)


def _rows(config: BreakASceneConfig, class_images: Tensor | None) -> int:
    """Rows of the largest forward pass."""
    has_prior = _preserves(config) and (class_images is not None or config.class_images.draw)
    return config.batch_size * (2 if has_prior else 1)


def _passes(config: BreakASceneConfig, class_images: Tensor | None) -> int:
    """Forward passes, in rows, for drawing the class images."""
    drawing = config.class_images
    rows = 1 if drawing.cfg == 1 else 2
    is_drawn = _preserves(config) and class_images is None
    return drawing.draw * drawing.steps * rows if is_drawn else 0


def _preserves(config: BreakASceneConfig) -> bool:
    """Whether class images have an effect: they have no gradient to the handles."""
    return config.prior_weight > 0 and config.weight_phase.steps > 0


def _class_latents(
    recipe: BreakAScene, images: Tensor | None, state_dir: StateFolder | None, progress: Progress
) -> Tensor | None:
    host, config = recipe.host, recipe.config
    if not _preserves(config):
        if images is not None:
            log.warning(
                "Training ignores the class images: prior_weight is %g and the second phase has "
                "%d steps.", config.prior_weight, config.weight_phase.steps,
            )  # fmt: skip
        return None
    if images is not None:
        return encoded_class_latents(host, images, recipe.size_px, progress)
    drawing = config.class_images
    if not drawing.draw:
        return None

    def drawn() -> Tensor:
        return class_latents_of(
            host,
            drawing.prompt,
            drawing.draw,
            recipe.size_px,
            seed=config.seed,
            steps=drawing.steps,
            cfg=drawing.cfg,
            progress=progress,
        )

    return state_dir.remembered("class-latents", drawn) if state_dir else drawn()


def _state_folder(
    folder: Path | None, recipe: BreakAScene, loop: LoopConfig, class_images: Tensor | None
) -> StateFolder | None:
    """The state folder of this run."""
    pictures = {"class images": class_images if class_images is not None else []}
    return state_folder(folder, recipe.host, recipe.scene, loop, [asdict(recipe.config)], pictures)
