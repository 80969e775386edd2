"""Train concepts for the bank with one call, for nodes and command line."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

from ...host.ports import Host, Progress, no_progress
from ...scenes.scene import ConceptScene
from ...training.estimate import report_estimate
from ...training.previews import PreviewConfig, Previews
from ...training.recipe import LoopConfig
from ...training.results import SaveConcept
from ...training.runner import TrainingResult, loop_for, run_training, state_folder
from .bank import BankRecipe
from .config import BankConfig


def learn_for_bank(
    host: Host,
    scene: ConceptScene,
    config: BankConfig | None = None,
    *,
    loop: LoopConfig | None = None,
    previews: PreviewConfig | None = None,
    folder: Path | None = None,
    save: SaveConcept | None = None,
    progress: Progress = no_progress,
) -> TrainingResult:
    """Learn the concepts of a scene in K and V, to be woven later.

    Args:
        folder: where states, CSV and TensorBoard files go, in a subfolder for exactly
            these inputs, so that the same call resumes. None saves nothing.
        save: writes the concept file; called before anything is drawn.
        progress: called after every step; may raise to cancel.

    Raises:
        InputError, TrainingError: see `errors`; `folder` contains the state so far.
    """
    config = config or BankConfig()
    loop = loop_for(host, loop, seed=config.seed, accumulation=config.accumulation)
    recipe = BankRecipe(host, scene, config, progress)
    settings = previews or PreviewConfig()
    settings = replace(settings, prompts=settings.prompts or recipe.prompts)
    preview = Previews(host, recipe.scene, recipe.handles.vectors, settings)
    needs = report_estimate(recipe, config.batch_size, loop, preview, progress, folder=folder)
    state_dir = state_folder(folder, host, recipe.scene, loop, [asdict(config), "concept_weaver"])
    return run_training(recipe, loop, preview, state_dir, progress, save, needs)
