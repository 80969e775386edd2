"""Apply and Inspect Concept."""

from __future__ import annotations

import json
from typing import Any

import torch
from comfy_api.latest import io

from ..concepts.changes import Kronecker, LowRank
from ..concepts.concept import Concept
from .inputs import OF_ITS_FAMILY, model_inputs
from .shared import CATEGORY, applied, picture, shown
from .sockets import LearnedConcept

CONCEPT_CATEGORY = f"{CATEGORY}/Concept"


class ApplyConcept(io.ComfyNode):
    """MODEL, CLIP and CONCEPT -> MODEL and CLIP that know it."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ConceptLoomApplyConcept",
            display_name="Apply Concept",
            category=CONCEPT_CATEGORY,
            description="Adds a concept to MODEL and CLIP. Prompts downstream can then use its "
            "names, such as <my-mug>. Chain several of these nodes for several concepts.",
            search_aliases=["use concept", "load lora", "embedding"],
            inputs=[
                *model_inputs(OF_ITS_FAMILY),
                LearnedConcept.Input("concept", tooltip="From a trainer or from Load Concept."),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=-4.0,
                    max=4.0,
                    step=0.05,
                    tooltip="Strength of the learned weights. 0 leaves the model's weights "
                    "exactly unchanged, 1 is as trained, more exaggerates, negative values "
                    "invert. The names always keep their learned embeddings.",
                ),
            ],
            outputs=[
                io.Model.Output(
                    "model",
                    tooltip="The patched model, for a sampler. The input model is not modified.",
                ),
                io.Clip.Output("clip", tooltip="For prompts that contain the names."),
            ],
        )

    @classmethod
    def execute(cls, model: Any, clip: Any, concept: Concept, strength: float) -> io.NodeOutput:
        return io.NodeOutput(*applied(model, clip, concept, strength))


class InspectConcept(io.ComfyNode):
    """Shows the contents of a concept."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ConceptLoomInspectConcept",
            display_name="Inspect Concept",
            category=CONCEPT_CATEGORY,
            description="Shows a concept's picture, its names, what it changes, how it was "
            "trained, and example prompts.",
            search_aliases=["concept info", "metadata", "thumbnail"],
            is_output_node=True,
            inputs=[LearnedConcept.Input("concept", tooltip="From a trainer or Load Concept.")],
            outputs=[
                io.Image.Output("thumbnail", tooltip="The concept's picture; grey if it has none."),
                io.String.Output(
                    "text", tooltip="Everything the concept file says about the concept."
                ),
                io.String.Output(
                    "prompt", tooltip="A prompt with all its names, for a text encoder."
                ),
            ],
        )

    @classmethod
    def execute(cls, concept: Concept) -> io.NodeOutput:
        text = described(concept)
        thumbnail = concept.thumbnail
        image = picture(torch.full((64, 64, 3), 0.5) if thumbnail is None else thumbnail)
        return io.NodeOutput(image, text, usage_prompt(concept), ui=shown(cls, image, text))


def usage_prompt(concept: Concept) -> str:
    """The concept's training prompt with the most names."""
    if not concept.prompts:
        return " ".join(f"<{name}>" for name in concept.names)
    return max(concept.prompts, key=lambda p: sum(f"<{name}>" in p for name in concept.names))


def described(concept: Concept) -> str:
    """The contents of a concept, line by line."""
    lines: list[str] = []
    for name, vectors in concept.handles.items():
        word = f", word {concept.words[name]!r}" if concept.words.get(name) else ""
        sizes = ", ".join(f"{len(rows)} x {rows.shape[1]} ({e})" for e, rows in vectors.items())
        lines.append(f"<{name}>{word}: {sizes}")
    lines += [f"Changes: {describe_changes(concept)}", f"Base model: {concept.base}"]
    lines.append(f"Method: {concept.method}")
    lines += [f"Prompt: {prompt}" for prompt in concept.prompts]
    if concept.history:
        losses = ", ".join(f"{name} {value:.4g}" for name, value in concept.history.items())
        lines.append(f"Final losses: {losses}")
    lines.append(f"Seeds: {json.dumps(dict(concept.seeds))}")
    lines.append(f"Recipe: {json.dumps(dict(concept.recipe), default=str, indent=1)}")
    return "\n".join(lines)


def describe_changes(concept: Concept) -> str:
    """How many weights a concept changes, and in which form."""
    if not concept.weights:
        return "no weights, only names"
    ranks = sorted({c.rank for c in concept.weights.values() if isinstance(c, LowRank)})
    form = f"low-rank ({', '.join(map(str, ranks))})" if ranks else "whole"
    if any(isinstance(change, Kronecker) for change in concept.weights.values()):
        form = "Kronecker products" if not ranks else f"{form} and Kronecker products"
    return f"{len(concept.weights)} weights, {form}"
