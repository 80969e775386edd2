"""From a scene to a concept in one call; what nodes and command line share."""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass
from pathlib import Path

from torch import Tensor

from ...host.ports import Host, Progress, no_progress
from ...samplers.class_images import drawn_class_latents, encoded_class_latents
from ...scenes.scene import ConceptScene
from ...training.checkpoints import StateFolder
from ...training.estimate import tell_needs
from ...training.previews import PreviewConfig, Previews
from ...training.recipe import LoopConfig
from ...training.results import PathOf
from ...training.session import Learned, loop_for, state_folder, teach
from .config import BreakASceneConfig
from .recipe import BreakAScene

log = logging.getLogger("conceptloom")


@dataclass(frozen=True, kw_only=True, slots=True)
class ClassImages:
    """Pictures for prior preservation: given, or drawn by the base model."""

    images: Tensor | None = None  # [P, H, W, 3], 0..1, at the size of the scene
    draw: int = 100  # how many to draw when none are given; 0 does without (train.py:150)
    steps: int = 50
    cfg: float = 7.5


def learn_scene(
    host: Host,
    scene: ConceptScene,
    config: BreakASceneConfig,
    *,
    loop: LoopConfig | None = None,
    class_images: ClassImages | None = None,
    previews: PreviewConfig | None = None,
    folder: Path | None = None,
    path_of: PathOf | None = None,
    progress: Progress = no_progress,
) -> Learned:
    """Learn the concepts of a scene with Break-A-Scene.

    Args:
        folder: where states, CSV and TensorBoard files go, in a folder of their own for these
            very inputs, so that the same call goes on where it was stopped. None keeps nothing.
        path_of: where the concept file belongs; it is written before anything is drawn.
        progress: told of every step; may raise to cancel.

    Raises:
        InputError, TrainingError: see `errors`; the state so far is in `folder`.
    """
    loop = loop_for(host, loop, seed=config.seed, accumulation=config.accumulation)
    recipe = BreakAScene(host, scene, config)
    given = class_images or ClassImages()
    tell_needs(recipe, _rows(config, given), progress)
    kept = _kept(folder, recipe, loop, given)
    recipe.class_latents = _class_latents(recipe, given, kept, progress)
    settings, level = previews or PreviewConfig(), recipe.sites[0].level
    shown = Previews(host, recipe.scene, recipe.handles.vectors, settings, level)
    return teach(recipe, loop, shown, kept, progress, path_of)


def _rows(config: BreakASceneConfig, given: ClassImages) -> int:
    """Rows of the largest forward pass."""
    has_prior = _preserves(config) and (given.images is not None or given.draw)
    return config.batch_size * (2 if has_prior else 1)


def _preserves(config: BreakASceneConfig) -> bool:
    """Whether class images have anything to hold: nothing of them reaches the handles."""
    return config.prior_weight > 0 and config.weight_phase.steps > 0


def _class_latents(
    recipe: BreakAScene, given: ClassImages, kept: StateFolder | None, progress: Progress
) -> Tensor | None:
    host, config = recipe.host, recipe.config
    if not _preserves(config):
        if given.images is not None:
            log.warning(
                "The class images that came are not used: prior_weight is %g and the second phase "
                "has %d steps.", config.prior_weight, config.weight_phase.steps,
            )  # fmt: skip
        return None
    if given.images is not None:
        return encoded_class_latents(host, given.images, recipe.size_px)
    if not given.draw:
        return None

    def drawn() -> Tensor:
        return drawn_class_latents(
            host,
            config.prior_prompt,
            given.draw,
            recipe.size_px,
            seed=config.seed,
            steps=given.steps,
            cfg=given.cfg,
            progress=progress,
        )

    return kept.remembered("class-latents", drawn) if kept else drawn()


def _kept(
    folder: Path | None, recipe: BreakAScene, loop: LoopConfig, given: ClassImages
) -> StateFolder | None:
    """The folder of this very run."""
    settings = [asdict(recipe.config), [given.draw, given.steps, given.cfg]]
    pictures = {"class images": given.images if given.images is not None else []}
    return state_folder(folder, recipe.host, recipe.scene, loop, settings, pictures)
