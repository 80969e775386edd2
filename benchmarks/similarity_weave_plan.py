"""What is woven in which ways, how much of it, and what the paper found.

Concept Weaver (arXiv 2404.03913): CLIP between whole picture and text; CLIP between the crop of
each concept and its pictures. The paper's text figures lie where those of CLIP ViT-B/32 do.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from similarity_weave_files import Part, WeaveJob
from torch import Tensor
from weave_merging import merged_concept, named_sentence

from conceptloom.concepts.concept import Concept
from conceptloom.methods.concept_weaver import (
    BankConfig,
    InversionConfig,
    Mixing,
    Regions,
    RegionSpec,
    WeaveConfig,
    make_regions,
)
from conceptloom.training.phases import WeightPhase

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
