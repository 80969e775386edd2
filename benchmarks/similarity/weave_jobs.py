"""Weaves for Concept Weaver's similarity: concepts with their pictures, a template and a sentence.

    WEAVES/park/weave.json
        {"template": "template.png",
         "sentence": "a dog and a cat playing with a ball, mountain background",
         "concepts": {
           "my-dog": {"word": "dog", "pictures": ["dog/1.jpg", "dog/2.jpg"], "region": "dog.png"},
           "my-cat": {"word": "cat", "pictures": ["cat/1.jpg"], "masks": ["cat/1-mask.png"]}},
         "background": {"name": "my-hills", "word": "mountain", "pictures": ["hills/1.jpg"]}}
    WEAVES/park/template.png ...

Files are named relative to the folder; weaves may share pictures ("../dogs/1.jpg"), and a concept
that two of them have is learned once. `word` stands in the sentence and is the class word. `region`
is the concept's mask in the template: without it a segmenter looks for the word there. `masks` are
of the pictures; with them drawn and taught object are compared square by square, without them the
whole taught pictures are taken. `background` may be left out.

Concept Weaver (arXiv 2404.03913): CLIP between whole picture and text; CLIP between the crop of
each concept and its pictures. The paper's text figures lie where those of CLIP ViT-B/32 do.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from quality.weave import merged_concept, named_sentence
from torch import Tensor

from conceptloom.cli.mask_reader import read_mask
from conceptloom.cli.picture_reader import read_image
from conceptloom.concepts.concept import Concept
from conceptloom.errors import InputError
from conceptloom.methods.concept_weaver import (
    BankConfig,
    InversionConfig,
    Mixing,
    Regions,
    RegionSpec,
    WeaveConfig,
    make_regions,
)
from conceptloom.scenes.scene import ConceptScene, make_scene
from conceptloom.training.phases import WeightPhase

from .common import document_of, each_folder

WEAVE_FILE = "weave.json"


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """A concept and what stands in the template for it.

    Attributes:
        word: of the sentence; also the class word.
        taught: its pictures; where no masks were given each of them shows it all over.
        region: [H, W] of the template; None leaves it to a segmenter.
    """

    name: str
    word: str
    taught: ConceptScene
    region: Tensor | None = None


@dataclass(frozen=True, slots=True, eq=False)
class WeaveJob:
    """One picture to weave.

    Attributes:
        template: [H, W, 3], 0..1.
        sentence: with class words, as CLIP is asked too.
        parts: the concepts with a region.
        background: a concept of what they leave, or None.
    """

    template: Tensor
    sentence: str
    parts: tuple[Part, ...]
    background: Part | None = None

    @property
    def every(self) -> tuple[Part, ...]:
        """All that is to be learned."""
        return (*self.parts, *([self.background] if self.background else []))


def weaves_of(folder: Path) -> dict[str, WeaveJob]:
    """Name of a folder -> its weave.

    Raises:
        InputError: there is none, or one is not as the top of this file shows it.
    """
    return each_folder(folder, WEAVE_FILE, weave_of, "similarity/weave_jobs.py")


def weave_of(file: Path) -> WeaveJob:
    """The weave of a JSON file.

    Raises:
        InputError: it is not as the top of this file shows it, or a picture cannot be read.
    """
    document = document_of(file)
    try:
        parts = [_part(name, of, file) for name, of in document["concepts"].items()]
        behind = document.get("background")
        background = _part(behind["name"], behind, file) if behind else None
        template = read_image(file.parent / document["template"])
        return WeaveJob(template, str(document["sentence"]), tuple(parts), background)
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{file} is not as the top of similarity/weave_jobs.py shows a weave: {error!r}."
        ) from error


def _part(name: str, entry: Mapping[str, Any], file: Path) -> Part:
    word, pictures, masks = entry["word"].strip(), entry["pictures"], entry.get("masks")
    if not word:
        raise InputError(f"{file}: <{name}> needs a class word under 'word'.")
    if not isinstance(pictures, list) or (masks and len(masks) != len(pictures)):
        raise InputError(f"{file}: <{name}> needs a list of pictures, and masks for all or none.")
    images = [read_image(file.parent / picture) for picture in pictures]
    shown = [torch.ones(image.shape[:2]) for image in images]
    if masks:
        shown = [read_mask(file.parent / mask) for mask in masks]
    taught = make_scene(images, {name: shown}, {name: word})
    region = entry.get("region")
    return Part(name, word, taught, read_mask(file.parent / region) if region else None)


WHOLE, BASE = "Concept Weaver", "base model"
MERGED, MASKED = "merged concepts, one prompt", "merged concepts, masked conditioning"
VARIANTS: dict[str, WeaveConfig] = {
    WHOLE: WeaveConfig(),
    "without suppression": WeaveConfig(suppression=0.0),
    "without injection": WeaveConfig(resnet_until=0.0, attention_until=0.0),
    # Nothing but the merged model: pushed away from the base model it would be half a weave.
    MERGED: WeaveConfig(suppression=0.0),
    MASKED: WeaveConfig(resnet_until=0.0, attention_until=0.0, mixing=Mixing.SCORES),
    BASE: WeaveConfig(),
}
NOTES = {
    MERGED: "all differences added up in one model, all names in one prompt, same injection, no "
    "suppression; the negative prompt is the base model's; the paper's Custom Diffusion merges by "
    "an optimisation instead",
    MASKED: "the merged model, a prompt for each region, predictions mixed by masks; no injection; "
    "the negative prompt is the base model's, and so is the background where no concept is for it",
    BASE: "the same weave with class words and no concept",
}
# Concept Weaver, digests of its Table 1: CLIP text similarity, CLIP image similarity.
PUBLISHED = {
    "Textual Inversion": (0.3423, 0.7256),
    "Custom Diffusion": (0.3595, 0.7875),
    "Perfusion": (0.3182, 0.7563),
    "Mix-of-Show": (0.3634, 0.7984),
    "Concept Weaver": (0.3804, 0.8124),
}
PUBLISHED_SECONDS = 60  # a whole weave on an RTX 3090, concepts learned before


@dataclass(frozen=True, kw_only=True, slots=True)
class WeaveSimilarityBudget:
    """How much is learned and drawn."""

    bank: BankConfig
    steps: int = InversionConfig().steps  # of inversion and sampler


def full_budget(resolution_px: int, seed: int) -> WeaveSimilarityBudget:
    """The paper's numbers: 500 steps a concept, 50 of the sampler."""
    return WeaveSimilarityBudget(bank=BankConfig(resolution_px=resolution_px, seed=seed))


def quick_budget(resolution_px: int, seed: int) -> WeaveSimilarityBudget:
    """Enough to see that everything runs; the figures mean nothing."""
    full = full_budget(resolution_px, seed)
    weights = WeightPhase(steps=2, scope=full.bank.weight_phase.scope)
    return WeaveSimilarityBudget(bank=replace(full.bank, weight_phase=weights, views=1), steps=2)


def regions_of(
    job: WeaveJob, masks: Mapping[str, Tensor], bank: Mapping[str, Concept], variant: str
) -> Regions:
    """The regions of a variant; with an empty bank those of the base model.

    Args:
        masks: name of a concept -> its region [H, W].
        bank: name of a concept -> what was learned.

    Raises:
        InputError: see `make_regions`.
    """
    own = {} if variant == BASE else dict(bank)
    prompt = ""
    if variant in (MERGED, MASKED):
        merged = merged_concept(list(bank.values()))
        own = dict.fromkeys(bank, merged)
        if variant == MERGED:
            words = {part.name: part.word for part in job.every}
            prompt = named_sentence(job.sentence, words, merged)

    def region_spec(part: Part) -> RegionSpec:
        concept = own.get(part.name)
        handle = part.name if concept else ""
        mask = masks.get(part.name)
        return RegionSpec(concept=concept, word=part.word, handle=handle, mask=mask, prompt=prompt)

    background = job.background and region_spec(job.background)
    if variant == MERGED and background is None:
        background = RegionSpec(concept=own[job.parts[0].name], word="", prompt=prompt)
    return make_regions(job.sentence, [region_spec(part) for part in job.parts], background)
