"""Import LoRA as Concept: a LoRA file becomes a concept for LAG, Regions and the fuser."""

from __future__ import annotations

from typing import Any

import torch
from comfy_api.latest import io
from torch import Tensor

from ..concepts.concept import Concept
from ..concepts.lora_concept import concept_of_lora
from ..concepts.lora_metadata import picture_of
from ..errors import ImageError
from ..host.comfyui.lora import core_difference
from ..host.comfyui.notices import tell
from .concept import described, usage_prompt
from .lora_files import LORA_CATEGORY, loaded_lora, lora_inputs, lora_stamps
from .shared import host_of, picture, shown
from .sockets import LearnedConcept


class ImportLora(io.ComfyNode):
    """A LoRA file -> CONCEPT."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ConceptLoomImportLora",
            display_name="Import LoRA as Concept",
            category=LORA_CATEGORY,
            description="Makes a concept of a LoRA file, so that it works in Apply LAG, LAG "
            "Sampler, Regions and Region Feature Fuser next to concepts trained here. Save "
            "Concept keeps it with its picture and its words.",
            search_aliases=["convert lora", "lora to concept", "load lora", "regional lora"],
            inputs=_inputs(),
            outputs=[
                LearnedConcept.Output("concept", tooltip="For LAG, Regions, Save or Apply."),
                io.String.Output(
                    "prompt", tooltip="A prompt with the concept's name and its words."
                ),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, lora_name: str | None, **_: Any) -> str:
        """Detects a changed file under the same name; linked inputs are None."""
        return lora_stamps(lora_name)

    @classmethod
    def execute(
        cls, model: Any, clip: Any, lora_name: str, words: str, trigger: str, name: str,
        thumbnail: Tensor | None = None,
    ) -> io.NodeOutput:  # fmt: skip
        concept = imported(model, clip, lora_name, words, trigger, name, thumbnail)
        seen = concept.thumbnail
        image = picture(torch.full((64, 64, 3), 0.5) if seen is None else seen)
        prompt = usage_prompt(concept)
        return io.NodeOutput(concept, prompt, ui=shown(cls, image, described(concept)))


def _inputs() -> list[io.Input]:
    return [
        *lora_inputs(),
        io.String.Input(
            "words",
            default="",
            tooltip="Words that the base model knows and that describe the subject, such as: girl "
            "with blue hair. Prompts write them after the name; their attention locates the "
            "concept.",
        ),
        io.String.Input(
            "trigger",
            default="",
            tooltip="Trigger word of the LoRA; the concept's name stands for it in prompts. Empty: "
            "the one that the file names, or its most frequent tag.",
        ),
        io.String.Input(
            "name",
            default="",
            tooltip="Name of the concept in prompts, written <name>. Empty: the trigger.",
        ),
        io.Image.Input(
            "thumbnail",
            optional=True,
            tooltip="Picture for the concept file. Without one: the picture in the LoRA file or "
            "next to it, if any.",
        ),
    ]


def imported(
    model: Any, clip: Any, lora_name: str, words: str, trigger: str, name: str,
    thumbnail: Tensor | None,
) -> Concept:  # fmt: skip
    """A file of models/loras as a concept.

    Raises:
        ConceptLoomError: it cannot be read or does not fit, or the words are missing.
    """
    if thumbnail is not None and (thumbnail.ndim != 4 or thumbnail.shape[-1] not in (3, 4)):
        raise ImageError(f"The thumbnail has the shape {list(thumbnail.shape)}; connect a picture.")
    loaded = loaded_lora(model, clip, lora_name)
    seen = picture_of(loaded.path, loaded.metadata) if thumbnail is None else thumbnail[0, ..., :3]
    concept = concept_of_lora(
        host_of(model, clip, applies_only=True),
        loaded.file,
        loaded.words,
        words=words,
        file_name=loaded.path.name,
        name=name,
        trigger=trigger,
        thumbnail=seen.detach().cpu() if seen is not None else None,
        difference=core_difference,
    )
    if not concept.recipe["trigger"]:
        tell(
            f"{lora_name} names no trigger word, so <{concept.names[0]}> stands for {words!r}. If "
            "the LoRA has a trigger word, write it in the widget."
        )
    return concept
