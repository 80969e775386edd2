"""BLIP-2 Adaptive Negatives Trainer, Concept Mixing, Evolve Concepts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from comfy_api.latest import io
from torch import Tensor

from ..errors import ConfigError, ModelError
from ..host.comfyui.progress import NodeProgress
from ..host.ports import Progress
from ..methods.conceptlab import (
    LINEAGE,
    SIMILARITY,
    ConceptLabConfig,
    EvolutionConfig,
    Invented,
    Kind,
    NegativesConfig,
    Parent,
    evolve,
    invent,
    lineage_told,
)
from ..training.concept import Concept
from ..training.handles import Initialiser
from ..training.plots import loss_plot
from ..training.recipe import LoopConfig
from ..vision.ports import PriorSampling, Questions
from .conceptlab_knobs import (
    LAB_LOOP,
    evolution_inputs,
    lab_outputs,
    mixing_inputs,
    trainer_inputs,
)
from .prior import LAB, LoadedPrior
from .shared import listed, picture, shown
from .trainer import run_folder, saved

PARENT_PICTURES = 4  # drawn of each concept; the official parents have three to five


class AdaptiveNegativesTrainer(io.ComfyNode):
    """Invents a member of a category."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ConceptLoomAdaptiveNegativesTrainer",
            display_name="BLIP-2 Adaptive Negatives Trainer",
            category=LAB,
            description="Invents something that is of a category and none of its known members "
            "(ConceptLab): a new name moves away from whatever its own pictures are taken for. "
            "Cancelling keeps the work; queue again and it goes on.",
            search_aliases=["conceptlab", "creative", "invent", "negatives", "vqa"],
            is_output_node=True,
            hidden=[io.Hidden.unique_id],
            inputs=trainer_inputs(),
            outputs=lab_outputs(),
        )

    @classmethod
    def execute(
        cls, prior: LoadedPrior, handle: str, category: str, name: str, checkpoint: int,
        vqa: Questions | None = None, **knobs: Any,
    ) -> io.NodeOutput:  # fmt: skip
        config = lab_config(prior, (category.strip(),), knobs, negatives_of(knobs))
        progress = NodeProgress(cls.hidden.unique_id)
        made = invented(prior, handle, config, vqa, knobs, run_folder(name), progress)
        return result_of(cls, made, checkpoint, run_folder(name), progress)


class ConceptMixing(io.ComfyNode):
    """One thing that is several."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ConceptLoomConceptMixing",
            display_name="Concept Mixing",
            category=LAB,
            description="Learns a name for something that is several things at once, each as much "
            "as its weight says: half lobster, half turtle (ConceptLab, positives only).",
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
        positives, weights = weighted(words)
        # Looks without questions: the gallery, and the checkpoints.
        looks = NegativesConfig(every=knobs["look_every"])
        config = lab_config(prior, positives, {**knobs, "weights": weights}, looks)
        progress = NodeProgress(cls.hidden.unique_id)
        made = invented(prior, handle, config, None, knobs, run_folder(name), progress)
        return result_of(cls, made, checkpoint, run_folder(name), progress)


class EvolveConcepts(io.ComfyNode):
    """A child of several parents."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ConceptLoomEvolveConcepts",
            display_name="Evolve Concepts",
            category=LAB,
            description="Breeds a new name from the pictures of several parents: learned concepts, "
            "or photographs. Its children can be parents again; the file keeps the family tree.",
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
        progress = NodeProgress(cls.hidden.unique_id)
        shares = tuple(number("weights", entry) for entry in listed(weights))
        with torch.inference_mode(False):
            parents = [*drawn_parents(prior, concepts, progress), *photographed(images)]
            made = evolve(
                prior.space, handle, parents, evolution_config(prior, first_word, shares, knobs),
                painter=prior.painter, loop=loop_of(knobs), folder=run_folder(name),
                progress=progress,
            )  # fmt: skip
        return result_of(cls, made, checkpoint, run_folder(name), progress)


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
            progress=progress,
        )


def lab_config(
    prior: LoadedPrior,
    positives: tuple[str, ...],
    knobs: Mapping[str, Any],
    negatives: NegativesConfig,
) -> ConceptLabConfig:
    """The recipe that the widgets ask for; a space may want clamps of its own.

    Raises:
        ConfigError: a knob is out of its range.
    """
    official = ConceptLabConfig()
    clamps = {"positive_ceiling": prior.ceiling, "negative_floor": prior.floor}
    for knob, of_space in clamps.items():
        # Only a knob that nobody turned gives way.
        if of_space is None or knobs[knob] != getattr(official, knob):
            clamps[knob] = knobs[knob]
    return ConceptLabConfig(
        positives=positives,
        weights=knobs.get("weights", ()),
        negatives=negatives,
        kind=Kind(knobs.get("object_or_style", Kind.OBJECT.value)),
        positive_weight=knobs.get("positive_weight", official.positive_weight),
        positive_ceiling=float(clamps["positive_ceiling"] or 0.0),
        negative_floor=float(clamps["negative_floor"] or 0.0),
        initialiser_word=knobs["initialiser_word"],
        **common(prior, knobs),
    )


def negatives_of(knobs: Mapping[str, Any]) -> NegativesConfig:
    """How the list of negatives begins and grows."""
    return NegativesConfig(
        start=tuple(listed(knobs["negatives"])),
        locked=tuple(listed(knobs["locked"])),
        forbidden=tuple(listed(knobs["forbidden"])),
        every=knobs["look_every"],
        question=knobs["question"],
        gradual=knobs["gradual"],
        most=knobs["most_negatives"],
        keep_duplicates=knobs["keep_duplicates"],
        early_stop=knobs["early_stop"],
    )


def evolution_config(
    prior: LoadedPrior, first_word: str, weights: tuple[float, ...], knobs: Mapping[str, Any]
) -> EvolutionConfig:
    """The recipe that the widgets of Evolve Concepts ask for."""
    given, default = common(prior, knobs), EvolutionConfig()
    for name in ("templates", "gallery"):
        given[name] = given[name] or getattr(default, name)
    return EvolutionConfig(
        first_word=first_word, weights=weights, gallery_every=knobs["look_every"], **given
    )


def common(prior: LoadedPrior, knobs: Mapping[str, Any]) -> dict[str, Any]:
    """Settings that inventing, mixing and breeding have alike."""
    return {
        "steps": knobs["steps"],
        "learning_rate": knobs["learning_rate"],
        "seed": knobs["seed"],
        "gallery_seed": knobs["gallery_seed"],
        "initialiser": Initialiser(knobs["initialiser"]),
        "templates": lines(knobs["templates"]) or prior.sentences,
        "gallery": lines(knobs["gallery"]) or prior.gallery,
        "sampling": PriorSampling(
            steps=knobs["prior_steps"],
            guidance=knobs["prior_guidance"],
            checkpointing=knobs["checkpointing"],
        ),
    }


def loop_of(knobs: Mapping[str, Any]) -> LoopConfig:
    """The official AdamW, saved as often as asked."""
    return replace(LAB_LOOP, save_every=knobs["save_every"])


def lines(text: str) -> tuple[str, ...]:
    """Lines that hold something."""
    return tuple(filter(None, map(str.strip, text.splitlines())))


def weighted(words: str) -> tuple[tuple[str, ...], tuple[float, ...]]:
    """Lines such as `lobster: 2` as words and weights; without a number it is 1.

    Raises:
        ConfigError: no word, or what stands behind the colon is no number.
    """
    found: dict[str, float] = {}
    for line in lines(words):
        word, _, weight = line.partition(":")
        found[word.strip()] = number("words", weight.strip()) if weight.strip() else 1.0
    if not found:
        raise ConfigError("words", words, "one word a line, such as lobster, with : and a weight")
    return tuple(found), tuple(found.values())


def number(name: str, text: str) -> float:
    """A number that somebody typed.

    Raises:
        ConfigError: it is none.
    """
    try:
        return float(text)
    except ValueError:
        raise ConfigError(name, text, "a number, such as 0.5") from None


def drawn_parents(
    prior: LoadedPrior, concepts: Mapping[str, Any], progress: Progress
) -> list[Parent]:
    """Pictures of every connected concept, drawn by the prior's own painter.

    Raises:
        ModelError: nobody can draw them.
    """
    given: list[Concept] = [concept for concept in concepts.values() if concept is not None]
    if given and prior.painter is None:
        raise ModelError(
            "Nobody can draw the parents: choose a decoder in Load Diffusion Prior, or connect "
            "pictures of them instead of concepts."
        )
    parents: list[Parent] = []
    for concept in given:
        for name in concept.names:
            assert prior.painter is not None
            rows = [
                prior.painter.paint([f"a photo of a <{name}>"], concept.handles, seed, progress)
                for seed in range(1, PARENT_PICTURES + 1)
            ]
            parents.append(Parent(name, torch.cat(rows), concept.recipe.get(LINEAGE) or {}))
    return parents


def photographed(images: Mapping[str, Any]) -> list[Parent]:
    """Every connected batch is a parent."""
    given = [batch for batch in images.values() if batch is not None]
    return [
        Parent(f"photo-{i}", batch[..., :3].clone(), {}) for i, batch in enumerate(given, start=1)
    ]


def result_of(
    cls: Any, made: Invented, checkpoint: int, folder: Path, progress: Progress
) -> io.NodeOutput:
    """Outputs of all three nodes, with the checkpoint that the user chose."""
    concept = made.at(checkpoint)
    chosen = checkpoint or made.album.steps[-1]
    samples = made.album.pictures(chosen)
    samples = torch.zeros(1, 64, 64, 3) if samples is None else samples
    timeline = made.timeline()
    timeline = samples if timeline is None else picture(timeline)
    report = told(made, concept, saved(concept, folder))
    progress(1, 1, report)
    losses = {"loss": [row["total"] for row in made.history]}
    on_node = shown(cls, timeline, report)
    return io.NodeOutput(
        concept, samples, timeline, *map(picture, plots(made.history)), losses,
        ", ".join(made.negatives), report, ui=on_node,
    )  # fmt: skip


def plots(history: Sequence[Mapping[str, float]]) -> tuple[Tensor, Tensor]:
    """Similarity with every constraint, and the losses; both over the steps."""
    always = ("step", "phase")
    similar = [
        {k.removeprefix(SIMILARITY): v for k, v in row.items() if k in always or SIMILARITY in k}
        for row in history
    ]
    lost = [{k: v for k, v in row.items() if SIMILARITY not in k} for row in history]
    return loss_plot(similar), loss_plot(lost)


def told(made: Invented, concept: Concept, path: Path) -> str:
    """What a user wants to know of a finished run, line by line."""
    (name,) = concept.names
    similar = {
        k.removeprefix(SIMILARITY): v
        for k, v in concept.history.items()
        if k.startswith(SIMILARITY)
    }
    return "\n".join(
        [
            *(look.told() for look in made.looks),
            *lineage_told(name, concept.recipe),
            "Similar at the end: " + ", ".join(f"{k} {v:.3f}" for k, v in similar.items()),
            f"Checkpoints: {', '.join(map(str, made.album.steps))}",
            f"Saved: {path}",
            f"Use: {concept.prompts[0]}",
        ]
    )
