"""Regions: the mask and the prompt of each concept."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from comfy_api.latest import io
from torch import Tensor

from ..concepts.concept import Concept
from ..errors import ConfigError, MaskError
from ..methods.concept_weaver import RegionConfig, Regions, RegionSpec, Template, make_regions
from ..scenes.scene import ConceptScene, SceneImage
from ..training.setting import changed
from ..viz.scene_preview import scene_preview
from .shared import lines_of, picture, shown
from .sockets import LearnedConcept, RegionsSocket, TemplateSocket
from .template import WEAVER
from .widgets import widgets_of

MOST_REGIONS = 16


class RegionsNode(io.ComfyNode):
    """Concepts + masks + words -> REGIONS."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ConceptLoomRegions",
            display_name="Regions",
            category=WEAVER,
            description="Divides a template among concepts: one mask and one word each. Masks "
            "grow slightly, without overlapping where they meet; the rest is background.",
            search_aliases=["regional prompt", "couple", "mask", "multi concept", "compose"],
            inputs=_inputs(),
            outputs=[
                RegionsSocket.Output("regions", tooltip="For Region Feature Fuser."),
                io.Image.Output(
                    "preview", tooltip="The regions over the template, numbered and named."
                ),
                io.String.Output(
                    "prompts",
                    tooltip="The prompt of every region, one per line. To change one, write "
                    "your own in the line of its word.",
                ),
            ],
        )

    @classmethod
    def execute(
        cls, concepts: dict[str, Concept], masks: dict[str, Tensor], sentence: str, words: str,
        background: str, background_concept: Concept | None = None,
        template: Template | None = None, **settings: Any,
    ) -> io.NodeOutput:  # fmt: skip
        config = changed(RegionConfig(), settings)
        specs = region_specs(list(concepts.values()), list(masks.values()), words)
        regions = make_regions(sentence, specs, behind(background_concept, background), config)
        preview = picture(preview_of(regions, template))
        on_node = shown(cls, preview, regions.prompts)
        return io.NodeOutput(regions, preview, regions.prompts, ui=on_node)


def _inputs() -> list[io.Input]:
    return [
        io.Autogrow.Input(
            "concepts",
            template=io.Autogrow.TemplatePrefix(
                LearnedConcept.Input(
                    "concept",
                    tooltip="A learned concept or an imported LoRA; its changes work only in its "
                    "region.",
                ),
                prefix="concept",
                min=1,
                max=MOST_REGIONS,
            ),
            tooltip="One concept per region, in the order of the words. Each connection adds a "
            "free socket.",
        ),
        io.Autogrow.Input(
            "masks",
            template=io.Autogrow.TemplatePrefix(
                io.Mask.Input(
                    "mask",
                    tooltip="Region of the concept, white. Every mask of a batch is a separate "
                    "region.",
                ),
                prefix="mask",
                min=1,
                max=MOST_REGIONS,
            ),
            tooltip="One mask per concept, in the same order, from Segment by Text, SAM, "
            "Attention Maps or painted by hand.",
        ),
        io.String.Input(
            "sentence",
            default="a photo of a mug and a fish",
            multiline=True,
            tooltip="Description of the template in plain words. The prompts of all regions "
            "derive from it.",
        ),
        io.String.Input(
            "words",
            default="mug\nfish",
            multiline=True,
            tooltip="One line per region: the word of the sentence that the concept replaces, "
            "optionally followed by a colon and your own prompt: dog: a <my-dog> asleep.",
        ),
        LearnedConcept.Input(
            "background_concept",
            optional=True,
            tooltip="A concept for the background. Without one, the model draws the background "
            "unchanged.",
        ),
        io.String.Input(
            "background",
            default="",
            tooltip="The background's word, optionally followed by a colon and a prompt, as "
            "above. Empty draws the background with the whole sentence.",
        ),
        *widgets_of(RegionConfig()),
        TemplateSocket.Input(
            "template",
            optional=True,
            tooltip="Only for the preview and for checking the sizes.",
        ),
    ]


def region_specs(
    concepts: Sequence[Concept], masks: Sequence[Tensor], words: str
) -> list[RegionSpec]:
    """One `RegionSpec` per region.

    Raises:
        InputError: the numbers of concepts, masks and words differ.
    """
    rows = [row for mask in masks for row in (mask if mask.ndim == 3 else mask[None])]
    lines = lines_of(words)
    if len(rows) != len(concepts):
        raise MaskError(
            f"{len(rows)} masks came for {len(concepts)} concepts; every region needs both. Each "
            "mask of a batch counts as a region."
        )
    if len(lines) != len(concepts):
        raise ConfigError(
            "words", f"{len(lines)} lines", f"one line for each of the {len(concepts)} concepts"
        )
    pairs = [_word_and_prompt(line) for line in lines]
    return [
        RegionSpec(concept=concept, word=word, mask=row, prompt=prompt)
        for concept, row, (word, prompt) in zip(concepts, rows, pairs, strict=True)
    ]


def behind(concept: Concept | None, line: str) -> RegionSpec | None:
    """The `RegionSpec` of the background; None for a plain one."""
    word, prompt = _word_and_prompt(line)
    if concept is not None and not (word or prompt):
        raise ConfigError(
            "background", line, "the word of the sentence that the background concept replaces"
        )
    return RegionSpec(concept=concept, word=word, prompt=prompt) if word or prompt else None


def _word_and_prompt(line: str) -> tuple[str, str]:
    word, _, prompt = line.partition(":")
    return word.strip(), prompt.strip()


def preview_of(regions: Regions, template: Template | None) -> Tensor:
    """[H, W, 3] all regions, numbered, over the template or over grey.

    Raises:
        MaskError: the regions and the template differ in size.
    """
    height, width = regions.size
    grid = None
    if template is None:
        image = torch.full((height, width, 3), 0.6)
    else:
        image = template.image
        grid = template.trajectory.shape[-2], template.trajectory.shape[-1]
        if (height, width) != tuple(image.shape[:2]):
            raise MaskError(
                f"The masks are {width}x{height} px but the template is {image.shape[1]}x"
                f"{image.shape[0]} px; make them from the template's picture."
            )
    names = [part.name.strip("<>") for part in regions.parts[:-1]]
    shown_masks = {
        f"{name} {i + 1}" if names.count(name) > 1 else name: mask
        for i, (name, mask) in enumerate(zip(names, regions.masks, strict=False))
    }
    scene = ConceptScene((SceneImage(image, shown_masks),), dict.fromkeys(shown_masks, ""))
    return scene_preview(scene, grid)
