"""RoI Matching and Concept Discovery: masks that CLiC locates automatically."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from comfy_api.latest import io
from torch import Tensor

from ..concepts.concept import Concept, check_base
from ..concepts.handles import checked_name
from ..errors import ImageError
from ..host.comfyui.progress import NodeProgress
from ..methods.clic.discovery import DISCOVERY, Discovery, DiscoveryConfig, discover
from ..methods.clic.matching import (
    ROI_MATCHING,
    Match,
    MatchConfig,
    ReadConfig,
    match_regions,
)
from ..samplers.masks import picture_masks
from ..training.adapters import Scope
from ..training.phases import RATE_OF_SCOPE, TokenPhase, WeightPhase
from ..viz.overlays import attention_overlay, stacked
from .matching_inputs import (
    SCOPES,
    learning_inputs,
    match_outputs,
    picture_reader,
    reading_inputs,
)
from .runs import run_folder
from .shared import CATEGORY, host_of, picture, shown
from .sockets import LearnedConcept

MATCHING = f"{CATEGORY}/CLiC"
MATCHED = "roi-matching"  # among the runs


class RoIMatching(io.ComfyNode):
    """Concept, source picture with mask, target pictures -> masks."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        config = ROI_MATCHING.token_phase
        return io.Schema(
            node_id="ConceptLoomRoIMatching",
            display_name="RoI Matching",
            category=MATCHING,
            description="Locates the place for a learned detail in pictures of other objects "
            "(CLiC): it learns a word for the detail's place in the source picture and reads "
            "its attention in every target.",
            search_aliases=["clic", "automatic mask", "correspondence", "segment", "region"],
            inputs=[
                *picture_reader(),
                LearnedConcept.Input("concept", tooltip="The learned detail, from a trainer."),
                io.Image.Input("source", tooltip="A picture with the detail."),
                io.Mask.Input("source_mask", tooltip="Mask of the detail in it, white."),
                io.Image.Input("targets", tooltip="Pictures to search; a batch."),
                io.String.Input(
                    "handle",
                    default="",
                    tooltip="Which name to use if the concept has several; otherwise empty.",
                ),
                *learning_inputs(config.steps, config.learning_rate),
                *reading_inputs(),
            ],
            outputs=match_outputs(),
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls, model: Any, clip: Any, vae: Any, concept: Concept, source: Tensor, source_mask: Tensor,
        targets: Tensor, handle: str, **widgets: Any,
    ) -> io.NodeOutput:  # fmt: skip
        check_base(concept, host_of(model, clip).fingerprint)
        learning = replace(
            ROI_MATCHING,
            token_phase=TokenPhase(steps=widgets["steps"], learning_rate=widgets["rate"]),
            **asked(widgets),
        )
        result = matched(
            host_of(model, clip, vae), concept, source, source_mask, targets, handle,
            MatchConfig(learning=learning, reading=reading_of(widgets)),
            NodeProgress(cls.hidden.unique_id),
        )  # fmt: skip
        return results(cls, targets, result, learning.object_word)


class ConceptDiscovery(io.ComfyNode):
    """Pictures -> what they share, and where each of them shows it."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        config = DISCOVERY.weight_phase
        return io.Schema(
            node_id="ConceptLoomConceptDiscovery",
            display_name="Concept Discovery",
            category=MATCHING,
            description="Learns what several pictures share and locates it in each of them "
            "(CLiC). Returns a concept, and masks for training it further.",
            search_aliases=["clic", "common concept", "co-segmentation", "automatic mask"],
            inputs=[
                *picture_reader(),
                io.Image.Input("images", tooltip="Two or more pictures of one size; a batch."),
                io.String.Input(
                    "name", default="my-style", tooltip="Name of the shared element, for prompts."
                ),
                io.String.Input(
                    "word",
                    default="",
                    tooltip="Word to start from; empty starts from a random vector.",
                ),
                io.Combo.Input(
                    "scope",
                    options=list(SCOPES),
                    default=Scope.CROSS_ATTENTION.value,
                    tooltip="What to train besides the name; low-rank suits large models.",
                ),
                *learning_inputs(config.steps, RATE_OF_SCOPE[Scope.CROSS_ATTENTION]),
                *reading_inputs(),
            ],
            outputs=[
                LearnedConcept.Output("concept", tooltip="The shared element, as a concept."),
                *match_outputs(),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls, model: Any, clip: Any, vae: Any, images: Tensor, name: str, word: str, scope: str,
        **widgets: Any,
    ) -> io.NodeOutput:  # fmt: skip
        phase = WeightPhase(
            steps=widgets["steps"], learning_rate=widgets["rate"], scope=Scope(scope)
        )
        learning = replace(DISCOVERY, weight_phase=phase, **asked(widgets))
        config = DiscoveryConfig(learning=learning, reading=reading_of(widgets))
        progress = NodeProgress(cls.hidden.unique_id)
        result = discovered(host_of(model, clip, vae), images, name, word, config, progress)
        return results(cls, images, result.matches, name, result.concept)


def asked(widgets: dict[str, Any]) -> dict[str, Any]:
    """The settings of learning that both nodes have."""
    return {
        "object_word": widgets["object_word"],
        "seed": widgets["seed"],
        "checkpointing": widgets["checkpointing"],
    }


def reading_of(widgets: dict[str, Any]) -> ReadConfig:
    """How maps are read."""
    return ReadConfig(
        steps=widgets["read_steps"], threshold=widgets["threshold"], seed=widgets["seed"]
    )


def matched(
    host: Any, concept: Concept, source: Tensor, mask: Tensor, targets: Tensor, handle: str,
    config: MatchConfig, progress: NodeProgress,
) -> Sequence[Match]:  # fmt: skip
    """Matches in every target, learned outside of the inference mode in which nodes run."""
    height, width = source.shape[1:3]
    plane = picture_masks(mask, (height, width)).amax(dim=0)
    with torch.inference_mode(False):
        return match_regions(
            host, concept, source[0, ..., :3].clone(), plane.clone(),
            [target[..., :3].clone() for target in targets], config, name=handle,
            folder=run_folder(MATCHED), progress=progress,
        )  # fmt: skip


def discovered(
    host: Any, images: Tensor, name: str, word: str, config: DiscoveryConfig, progress: NodeProgress
) -> Discovery:
    """What pictures share, learned outside of the inference mode in which nodes run."""
    if images.ndim != 4:
        raise ImageError(f"The images have the shape {list(images.shape)}; connect RGB pictures.")
    with torch.inference_mode(False):
        copies = [image[..., :3].clone() for image in images]
        folder = run_folder(checked_name(name))
        return discover(host, copies, name, config, word=word, folder=folder, progress=progress)


def results(
    cls: Any, images: Tensor, matches: Sequence[Match], word: str, *first: Any
) -> io.NodeOutput:
    """MASKs, heat-maps and the overlay; what comes `first` before them."""
    overlay = stacked(
        [
            attention_overlay(image[..., :3], {word: match.heat}, {word: match.mask}, None, {})
            for image, match in zip(images, matches, strict=True)
        ]
    )
    masks, heats = (
        torch.stack([getattr(match, kind) for match in matches]) for kind in ("mask", "heat")
    )
    image = picture(overlay)
    return io.NodeOutput(*first, masks, heats, image, ui=shown(cls, image))
