"""Train on words or pictures with one call, for nodes and command line."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...concepts.concept import Concept
from ...concepts.concept_file import recipe_of
from ...concepts.fingerprints import content_key
from ...host.ports import Progress, no_progress
from ...training.checkpoints import StateFolder
from ...training.loop import run, summary
from ...training.recipe import Events, LoopConfig
from ...training.results import ResultFile, SaveConcept
from ...training.runner import HALF_PRECISION_SCALE, write_losses
from ...vision.ports import ConceptSpace, ImageGenerator, VQAModel
from ...viz.overlays import sample_strip
from ...viz.plots import loss_plot
from .checkpoint_gallery import CheckpointGallery
from .config import OFFICIAL_LOOP, ConceptLabConfig, EvolutionConfig
from .evolution import LINEAGE, lineage_of
from .losses import shares
from .questions import Round
from .recipe import SIMILARITY, ConceptLab, EnoughLearned, Evolution, Parent, SamplingContext
from .templates import filled

log = logging.getLogger("conceptloom")


@dataclass(frozen=True, slots=True)
class Invented:
    """The result of a training run.

    Attributes:
        concept: at the end.
        history: one row a step: losses, and the similarity with every constraint.
        rounds: with answers and added words.
        negatives: negatives at the end.
        checkpoints: vectors and pictures of every round.
        path: of the concept file, if it was saved.
        trouble: why it was not saved, for the user.
    """

    concept: Concept
    history: Sequence[Mapping[str, float]]
    rounds: Sequence[Round]
    negatives: Sequence[str]
    checkpoints: CheckpointGallery
    path: Path | None = None
    trouble: str = ""

    @property
    def samples(self) -> Tensor | None:
        """[n, H, W, 3] the last gallery; None without an image generator."""
        return self.checkpoints.pictures(self.checkpoints.steps[-1])

    def at(self, step: int) -> Concept:
        """The concept after a step, without training again; 0 is the end.

        Raises:
            ConfigError: there is no checkpoint of that step.
        """
        if step == 0 or step == self.checkpoints.steps[-1]:
            return self.concept
        (name,) = self.concept.names
        widths = {encoder: rows.shape[1] for encoder, rows in self.concept.handles[name].items()}
        pictures = self.checkpoints.pictures(step)
        return replace(
            self.concept,
            handles={name: self.checkpoints.vectors(step, widths)},
            recipe={**self.concept.recipe, "checkpoint": step},
            thumbnail=None if pictures is None else pictures[0],
        )

    def timeline(self) -> Tensor | None:
        """[H, W, 3] the gallery of every round, a row each, with its added word."""
        texts = {one.step: one.summary() for one in self.rounds}
        images: list[Tensor] = []
        captions: list[str] = []
        columns = 1
        for step in self.checkpoints.steps:
            pictures = self.checkpoints.pictures(step)
            if pictures is not None:
                columns = len(pictures)
                images += list(pictures)
                captions += [texts.get(step, f"step {step}"), *[""] * (columns - 1)]
        return sample_strip(images, captions, n_columns=columns) if images else None

    def describe_ceiling(self) -> str:
        """Which words of a mix the ceiling kept from pulling, and how often; "" if none."""
        words = self.concept.recipe.get("positives", ())
        ceiling = self.concept.recipe.get("positive_ceiling", 1.0)
        above = {
            word: sum(row.get(f"{SIMILARITY}{word}", -1.0) > ceiling for row in self.history)
            for word in (words if len(words) > 1 and ceiling < 1 else ())
        }
        steps = max(1, len(self.history))
        idle = [f"{w} in {n / steps:.0%} of the steps" for w, n in above.items() if n]
        if not idle:
            return ""
        return (
            f"More similar than positive_ceiling {ceiling:g} and so without a pull, whatever the "
            f"weight: {', '.join(idle)}. Set positive_ceiling to 1 to keep the proportions."
        )

    def plots(self) -> tuple[Tensor, Tensor]:
        """[H, W, 3] similarity with every constraint over the steps, and [H, W, 3] the losses."""
        always = ("step", "phase")
        similar = [
            {
                name.removeprefix(SIMILARITY): value
                for name, value in row.items()
                if name in always or name.startswith(SIMILARITY)
            }
            for row in self.history
        ]
        lost = [
            {k: v for k, v in row.items() if not k.startswith(SIMILARITY)} for row in self.history
        ]
        return loss_plot(similar), loss_plot(lost)


def invent(
    space: ConceptSpace,
    name: str,
    config: ConceptLabConfig,
    *,
    image_generator: ImageGenerator | None = None,
    questions: VQAModel | None = None,
    loop: LoopConfig | None = None,
    folder: Path | None = None,
    save: SaveConcept | None = None,
    progress: Progress = no_progress,
) -> Invented:
    """Invent a member of a category, or mix several, as a new handle.

    Args:
        name: of the handle.
        image_generator: draws the galleries; without one there are no questions.
        questions: VQA model for the negatives; None keeps the initial list.
        loop: how to optimise; None is the official AdamW.
        folder: where states, vectors and pictures go, in a folder of their own for these very
            inputs, so that the same call goes on where it was stopped. None keeps nothing.
        save: writes the concept file; called before the last gallery is drawn.
        progress: called after every step; may raise to cancel.

    Raises:
        InputError, TrainingError: see `errors`; `folder` contains the state so far.
    """
    model_names = (
        questions.name if questions else "",
        image_generator.name if image_generator else "",
    )
    loop = _loop_for(space, loop, config.seed)
    state_dir = _folder_of(folder, space, loop, ["invent", name, asdict(config), *model_names], {})
    notes = state_dir.notes if state_dir else {}
    context = SamplingContext(CheckpointGallery(notes, state_dir), image_generator, questions)
    recipe = ConceptLab(space, name, config, context, notes)
    result = ResultFile(save, state_dir)
    with _offloaded_at_the_end(space):
        history = _trained(recipe, loop, state_dir, progress)
        more = {"final_negatives": recipe.negatives.words}
        concept = _saved(recipe, _concept(recipe, config, history, more), result)
    negatives = recipe.negatives
    _finish(state_dir)
    outcome = (negatives.rounds, negatives.words, context.checkpoints, result.path, result.trouble)
    return Invented(concept, history, *outcome)


def evolve(
    space: ConceptSpace,
    name: str,
    parents: Sequence[Parent],
    config: EvolutionConfig,
    *,
    image_generator: ImageGenerator | None = None,
    loop: LoopConfig | None = None,
    folder: Path | None = None,
    save: SaveConcept | None = None,
    progress: Progress = no_progress,
) -> Invented:
    """Train a new handle from several parents, each given by pictures.

    Raises:
        UnsupportedModelError: the space has no image encoder.
        InputError, TrainingError: see `errors`; `folder` contains the state so far.
    """
    loop = _loop_for(space, loop, config.seed)
    settings = ["evolve", name, asdict(config), [p.name for p in parents]]
    images = {f"parent {i}": parent.images for i, parent in enumerate(parents)}
    state_dir = _folder_of(
        folder, space, loop, [*settings, image_generator.name if image_generator else ""], images
    )
    notes = state_dir.notes if state_dir else {}
    context, result = (
        SamplingContext(CheckpointGallery(notes, state_dir), image_generator),
        ResultFile(save, state_dir),
    )
    with _offloaded_at_the_end(space):
        recipe = Evolution(space, name, parents, config, context, notes)
        history = _trained(recipe, loop, state_dir, progress)
        weights = shares(config.weights, len(parents)).tolist()
        tree = lineage_of([p.name for p in parents], weights, [p.history for p in parents])
        concept = _saved(recipe, _concept(recipe, config, history, {LINEAGE: tree}), result)
    _finish(state_dir)
    return Invented(concept, history, (), (), context.checkpoints, result.path, result.trouble)


def _loop_for(space: ConceptSpace, loop: LoopConfig | None, seed: int) -> LoopConfig:
    scale = HALF_PRECISION_SCALE if space.dtype is torch.float16 else 1.0
    return replace(loop or OFFICIAL_LOOP, seed=seed, loss_scale=scale, preview_every=0)


def _folder_of(
    folder: Path | None,
    space: ConceptSpace,
    loop: LoopConfig,
    settings: list[Any],
    tensors: Mapping[str, Tensor],
) -> StateFolder | None:
    """The folder of this very run: other words, settings, pictures or models have another one."""
    if folder is None:
        return None
    state_dir = StateFolder(folder, content_key(space.digest, [*settings, loop.numerics], tensors))
    state_dir.ensure_writable()
    return state_dir


@contextmanager
def _offloaded_at_the_end(space: ConceptSpace) -> Iterator[None]:
    """Offload the models at the end of a run, also after an exception."""
    try:
        yield
    finally:
        space.offload()


def _trained(
    recipe: ConceptLab | Evolution,
    loop: LoopConfig,
    state_dir: StateFolder | None,
    progress: Progress,
) -> Sequence[Mapping[str, float]]:
    """Train to the end, or until the answers repeat."""
    rows: list[Mapping[str, float]] = []
    total = recipe.phases()[0].steps

    def heard(row: dict[str, float]) -> None:
        recipe.after_step(row)
        rows.append(row)

    def report(entry: Round, pictures: Tensor | None) -> None:
        log.info("<%s> %s", recipe.name, entry.summary())
        strip = None
        if pictures is not None:
            strip = sample_strip(list(pictures), [entry.summary(), *[""] * (len(pictures) - 1)])
        progress(recipe.step, total, entry.summary(), strip)

    recipe.context.on_round, recipe.context.progress = report, progress
    try:
        history = run(recipe, loop, Events(progress, heard), state_dir).history
    except EnoughLearned:
        log.info("<%s> stops at step %d: the answers repeat", recipe.name, recipe.step)
        state = state_dir.newest() if state_dir else None
        history = state.history if state else rows
    if state_dir:
        write_losses(history, state_dir.folder / "losses.csv")
    return history


def _finish(state_dir: StateFolder | None) -> None:
    if state_dir:
        state_dir.finish(keep=True)  # of a word's vectors: nobody misses the room


def _saved(recipe: ConceptLab | Evolution, concept: Concept, result: ResultFile) -> Concept:
    """Save the concept, draw the last gallery, and save the concept with its thumbnail."""
    result.save(concept)
    checkpoints = recipe.context.checkpoints
    with recipe.computing(recipe.phases()[0]):
        if not checkpoints.has(recipe.step, recipe.space.encoders):
            recipe.keep()
    pictures = checkpoints.pictures(checkpoints.steps[-1])
    if pictures is not None:
        concept = replace(concept, thumbnail=pictures[0])
        result.save(concept)
    return concept


def _concept(
    recipe: ConceptLab | Evolution,
    config: ConceptLabConfig | EvolutionConfig,
    history: Sequence[Mapping[str, float]],
    more: Mapping[str, Any],
) -> Concept:
    name = recipe.name
    return Concept(
        handles=recipe.handles.to_concept_handles(),
        base=recipe.space.fingerprint,
        method="conceptlab",
        recipe=recipe_of(config, **more),
        seeds={"seed": config.seed, "gallery": config.gallery_seed},
        prompts=tuple(filled(text, f"<{name}>") for text in config.pictures),
        words={name: config.first_word},
        history=summary(history),
    )
