"""BLIP-2 Adaptive Negatives Trainer, Concept Mixing, Evolve Concepts."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from comfy_api.latest import io

from ..host.comfyui.progress import NodeProgress
from ..host.ports import Progress
from ..methods.conceptlab import (
    ConceptLabConfig,
    Invented,
    NegativesConfig,
    drawn_parents,
    evolve,
    invent,
    photographed_parents,
)
from .conceptlab_knobs import evolution_inputs, lab_outputs, mixing_inputs, trainer_inputs
from .conceptlab_results import result_of
from .conceptlab_settings import (
    evolution_config,
    lab_config,
    loop_of,
    negatives_of,
    weighted_words,
)
from .prior_loading import LAB, LoadedPrior
from .runs import concept_file, run_folder

if TYPE_CHECKING:
    from ..vision.ports import Questions


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
        vqa: Questions | None = None, **knobs: Any,
    ) -> io.NodeOutput:  # fmt: skip
        config = lab_config(prior, (category.strip(),), knobs, negatives_of(knobs))
        folder, progress = run_folder(name), NodeProgress(cls.hidden.unique_id)
        made = invented(prior, handle, config, vqa, knobs, folder, progress)
        return result_of(cls, made, checkpoint, folder, progress, asks=True)


class ConceptMixing(io.ComfyNode):
    """One thing that is several."""

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
        cls, prior: LoadedPrior, handle: str, words: str, name: str, checkpoint: int, **knobs: Any
    ) -> io.NodeOutput:
        positives, weights = weighted_words(words)
        # Looks without questions: the gallery, and the checkpoints.
        looks = NegativesConfig(every=knobs["look_every"])
        config = lab_config(prior, positives, {**knobs, "weights": weights}, looks)
        folder, progress = run_folder(name), NodeProgress(cls.hidden.unique_id)
        made = invented(prior, handle, config, None, knobs, folder, progress)
        return result_of(cls, made, checkpoint, folder, progress)


class EvolveConcepts(io.ComfyNode):
    """A child of several parents."""

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
        cls, prior: LoadedPrior, handle: str, first_word: str, weights: str, name: str,
        checkpoint: int, concepts: dict[str, Any], images: dict[str, Any], **knobs: Any,
    ) -> io.NodeOutput:  # fmt: skip
        folder, progress = run_folder(name), NodeProgress(cls.hidden.unique_id)
        with torch.inference_mode(False):
            parents = [
                *drawn_parents(prior.painter, connected(concepts), progress),
                *photographed_parents(
                    {f"photo-{i}": batch for i, batch in enumerate(connected(images), start=1)}
                ),
            ]
            made = evolve(
                prior.space, handle, parents, evolution_config(prior, first_word, weights, knobs),
                painter=prior.painter, loop=loop_of(knobs), folder=folder,
                path_of=concept_file(folder), progress=progress,
            )  # fmt: skip
        return result_of(cls, made, checkpoint, folder, progress)


def connected(sockets: Mapping[str, Any]) -> list[Any]:
    """What hangs on a row of sockets, without the empty ones."""
    return [value for value in sockets.values() if value is not None]


def invented(
    prior: LoadedPrior,
    handle: str,
    config: ConceptLabConfig,
    vqa: Questions | None,
    knobs: Mapping[str, Any],
    folder: Path,
    progress: Progress,
) -> Invented:
    """Learn outside of the inference mode in which nodes run.

    Raises:
        ConceptLoomError: see `invent`.
    """
    with torch.inference_mode(False):
        return invent(
            prior.space,
            handle,
            config,
            painter=prior.painter,
            questions=vqa,
            loop=loop_of(knobs),
            folder=folder,
            path_of=concept_file(folder),
            progress=progress,
        )
