"""BLIP-2 Adaptive Negatives Trainer, Concept Mixing, Evolve Concepts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from comfy_api.latest import io
from torch import Tensor

from ..concepts.concept import Concept
from ..host.comfyui.progress import NodeProgress
from ..host.ports import Progress
from ..methods.conceptlab import (
    Invented,
    evolve,
    invent,
    parents_from_concepts,
    parents_from_photographs,
    parsed_number,
    weighted_words,
)
from ..methods.conceptlab.spec import EVOLUTION, SPEC
from ..training.method_spec import MethodSpec, RunSettings, settings_for
from .conceptlab_inputs import evolution_inputs, lab_outputs, mixing_inputs, trainer_inputs
from .conceptlab_results import result_of
from .prior_loading import LAB, LoadedPrior
from .runs import concept_saver, run_folder
from .shared import entries, lines_of

if TYPE_CHECKING:
    from ..vision.ports import VQAModel


class AdaptiveNegativesTrainer(io.ComfyNode):
    """Invents a member of a category."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ConceptLoomAdaptiveNegativesTrainer",
            display_name="BLIP-2 Adaptive Negatives Trainer",
            category=LAB,
            description="Invents a member of a category that is none of its known members "
            "(ConceptLab): training moves a new name away from what a VQA model sees in its "
            "own pictures. Cancelling saves the progress; queue again to resume.",
            search_aliases=["conceptlab", "creative", "invent", "negatives", "vqa"],
            is_output_node=True,
            hidden=[io.Hidden.unique_id],
            inputs=trainer_inputs(),
            outputs=lab_outputs(asks=True),
        )

    @classmethod
    def execute(
        cls, prior: LoadedPrior, handle: str, category: str, name: str, checkpoint: int,
        vqa: VQAModel | None = None, **widgets: Any,
    ) -> io.NodeOutput:  # fmt: skip
        settings = lab_settings(prior, SPEC, widgets, positives=(category.strip(),))
        folder, progress = run_folder(name), NodeProgress(cls.hidden.unique_id)
        made = invented(prior, handle, settings, vqa, folder, progress)
        return result_of(cls, made, checkpoint, folder, progress, asks=True)


class ConceptMixing(io.ComfyNode):
    """Mixes several words into one concept."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ConceptLoomConceptMixing",
            display_name="Concept Mixing",
            category=LAB,
            description="Learns a name for a mix of several things, in proportion to their "
            "weights: half lobster, half turtle (ConceptLab, positives only).",
            search_aliases=["conceptlab", "hybrid", "blend", "mix"],
            is_output_node=True,
            hidden=[io.Hidden.unique_id],
            inputs=mixing_inputs(),
            outputs=lab_outputs(),
        )

    @classmethod
    def execute(
        cls, prior: LoadedPrior, handle: str, words: str, name: str, checkpoint: int, **widgets: Any
    ) -> io.NodeOutput:
        positives, weights = weighted_words(lines_of(words))
        settings = lab_settings(prior, SPEC, widgets, positives=positives, weights=weights)
        folder, progress = run_folder(name), NodeProgress(cls.hidden.unique_id)
        made = invented(prior, handle, settings, None, folder, progress)
        return result_of(cls, made, checkpoint, folder, progress)


class EvolveConcepts(io.ComfyNode):
    """Evolves a concept from several parents."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ConceptLoomEvolveConcepts",
            display_name="Evolve Concepts",
            category=LAB,
            description="Learns a new name from pictures of several parents: learned concepts "
            "or photographs. Its result can be a parent again; the concept file keeps the "
            "family tree.",
            search_aliases=["conceptlab", "breed", "evolution", "generation", "offspring"],
            is_output_node=True,
            hidden=[io.Hidden.unique_id],
            inputs=evolution_inputs(),
            outputs=lab_outputs(),
        )

    @classmethod
    def execute(
        cls, prior: LoadedPrior, handle: str, weights: str, name: str, checkpoint: int,
        concepts: dict[str, Any], images: dict[str, Any], **widgets: Any,
    ) -> io.NodeOutput:  # fmt: skip
        shares = tuple(parsed_number("weights", entry) for entry in entries(weights))
        settings = lab_settings(prior, EVOLUTION, widgets, weights=shares)
        folder, progress = run_folder(name), NodeProgress(cls.hidden.unique_id)
        made = bred(
            prior, handle, connected(concepts), connected(images), settings, folder, progress
        )
        return result_of(cls, made, checkpoint, folder, progress)


def connected(sockets: Mapping[str, Any]) -> list[Any]:
    """The connected values of an autogrow input."""
    return [value for value in sockets.values() if value is not None]


def lab_settings(
    prior: LoadedPrior, spec: MethodSpec, widgets: Mapping[str, Any], **words: Any
) -> RunSettings:
    """The settings of the widgets; `words` are positives and weights.

    Raises:
        ConfigError: a value is out of range.
    """
    start = settings_for(spec)
    # The words first: what the widgets say is checked against them.
    chosen = replace(start, config=replace(start.config, **words)).changed(widgets)
    return replace(chosen, config=prior.defaults.fitted(chosen.config))


def invented(
    prior: LoadedPrior,
    handle: str,
    settings: RunSettings,
    vqa: VQAModel | None,
    folder: Path,
    progress: Progress,
) -> Invented:
    """Train outside the inference mode of nodes.

    Raises:
        ConceptLoomError: see `invent`.
    """
    with torch.inference_mode(False):
        return invent(
            prior.space,
            handle,
            settings.config,
            image_generator=prior.image_generator,
            questions=vqa,
            loop=settings.loop,
            folder=folder,
            save=concept_saver(folder),
            progress=progress,
        )


def bred(
    prior: LoadedPrior,
    handle: str,
    concepts: Sequence[Concept],
    photographs: Sequence[Tensor],
    settings: RunSettings,
    folder: Path,
    progress: Progress,
) -> Invented:
    """Draw the parents that are concepts, and train, outside the inference mode of nodes.

    Raises:
        ConceptLoomError: see `evolve`.
    """
    photos = {f"photo-{i}": batch for i, batch in enumerate(photographs, start=1)}
    with torch.inference_mode(False):
        return evolve(
            prior.space,
            handle,
            [
                *parents_from_concepts(prior.image_generator, concepts, progress),
                *parents_from_photographs(photos),
            ],
            settings.config,
            image_generator=prior.image_generator,
            loop=settings.loop,
            folder=folder,
            save=concept_saver(folder),
            progress=progress,
        )
