"""Train on a scene with one call, for nodes and command line."""

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
from .config import CONCEPT, OBJECT, PAPER_LOOP, CLiCConfig
from .recipe import CLiC


def learn_detail(
    host: Host,
    scene: ConceptScene,
    config: CLiCConfig,
    *,
    loop: LoopConfig | None = None,
    previews: PreviewConfig | None = None,
    folder: Path | None = None,
    save: SaveConcept | None = None,
    progress: Progress = no_progress,
) -> TrainingResult:
    """Learn the details that a scene's masks mark, in their context, with CLiC.

    Args:
        loop: how to optimise; None is the paper's Adam.
        folder: where states, CSV and TensorBoard files go, in a subfolder for exactly
            these inputs, so that the same call resumes. None saves nothing.
        save: writes the concept file; called before anything is drawn.
        progress: called after every step; may raise to cancel.

    Raises:
        InputError, TrainingError: see `errors`; `folder` contains the state so far.
    """
    settings_of_loop = PAPER_LOOP if loop is None else loop
    loop = loop_for(host, settings_of_loop, seed=config.seed, accumulation=config.accumulation)
    recipe = CLiC(host, scene, config, progress)
    settings = previews or PreviewConfig()
    settings = replace(settings, prompts=settings.prompts or recipe.prompts)
    frame = config.prompt.replace(OBJECT, config.object_word)
    preview = Previews(
        host,
        recipe.scene,
        recipe.handles.vectors,
        settings,
        looking=lambda words: frame.replace(CONCEPT, " and ".join(words)),
    )
    needs = report_estimate(recipe, recipe.rows, loop, preview, progress, folder=folder)
    state_dir = state_folder(folder, host, recipe.scene, loop, [asdict(config), "clic"])
    return run_training(recipe, loop, preview, state_dir, progress, save, needs)
