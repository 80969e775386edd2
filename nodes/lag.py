"""Apply LAG: applies concepts only in their own regions, with any sampler."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from comfy_api.latest import io
from torch import Tensor

from ..attention.lag import LagEdit, OnMasks
from ..attention.lag_plan import LagConcept
from ..concepts.concept import Concept, identities
from ..errors import PromptError
from ..host.comfyui.apply import model_with_identities
from ..host.comfyui.edits import SamplingRun, with_edits
from ..host.comfyui.prompts import clip_with_handles
from ..host.comfyui.tokens import HIDDEN
from ..methods.personalized_residuals import (
    Localised,
    by_engine,
    is_merged,
    lag_setup,
    local_lora_of,
)
from .inputs import OF_ITS_FAMILY, model_inputs
from .lag_inputs import LAG_CATEGORY, OF_ONE, lag_inputs, localised_of
from .local_lora import with_local_lora
from .shared import applied, host_of
from .sockets import LearnedConcept

KEY = "conceptloom.lag"


class ApplyLag(io.ComfyNode):
    """MODEL, CLIP and CONCEPT -> MODEL that localises it in any sampler, CLIP that knows it."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ConceptLoomApplyLag",
            display_name="Apply LAG",
            category=LAG_CATEGORY,
            description="Adds a concept only where the picture shows it; the base model draws "
            "the rest. Works with any sampler, ControlNet and LoRA. Chain several for several "
            "concepts.",
            search_aliases=["personalized residuals", "lora bleeding", "lora mask", "regional"],
            inputs=[
                *model_inputs(OF_ITS_FAMILY),
                LearnedConcept.Input("concept", tooltip=OF_ONE),
                *lag_inputs(),
            ],
            outputs=[
                io.Model.Output(
                    "model",
                    tooltip="The patched model, for any sampler. The input model is not modified.",
                ),
                io.Clip.Output(
                    "clip",
                    tooltip="For the prompts: it knows the name and passes its position to LAG.",
                ),
            ],
        )

    @classmethod
    def execute(
        cls, model: Any, clip: Any, concept: Concept, mask: Tensor | None = None, **widgets: Any
    ) -> io.NodeOutput:
        return io.NodeOutput(*with_lag(model, clip, [localised_of(concept, mask, widgets)]))


def with_lag(
    model: Any, clip: Any, localised: Sequence[Localised], on_masks: OnMasks | None = None
) -> tuple[Any, Any]:
    """Clones of MODEL and CLIP with further concepts; those of earlier nodes stay.

    Residuals are applied by the paper's LAG, concepts with other changes as localised LoRAs.

    Raises:
        ConceptLoomError: a concept does not fit the model or LAG, or two have the same handle.
    """
    residuals, loras = by_engine(localised)
    if residuals or not loras:
        model, clip = _with_residuals(model, clip, residuals, on_masks)
    for one in loras:
        model, clip = with_lora_concept(model, clip, one)
    return model, clip


def with_lora_concept(model: Any, clip: Any, one: Localised) -> tuple[Any, Any]:
    """The same for a concept that changes more than output projections."""
    concept = one.concept
    if is_merged(one):
        return applied(model, clip, concept, one.config.strength)
    lora = local_lora_of(host_of(model, clip, applies_only=True), one)
    named = identities(concept)
    patched_clip = clip_with_handles(clip, concept.handles, named)
    identified = model_with_identities(model.clone(), named, patched_clip)
    return with_local_lora(identified, patched_clip, lora)


def _with_residuals(
    model: Any, clip: Any, localised: Sequence[Localised], on_masks: OnMasks | None
) -> tuple[Any, Any]:
    """A MODEL has one edit of LAG, because overlapping concepts compete. It carries its concepts as
    an attachment; a later node replaces the edit by one with all of them.
    """
    earlier: tuple[LagConcept, ...] = model.get_attachment(KEY) or ()
    setup = lag_setup(host_of(model, clip, applies_only=True), localised)
    patched_clip = clip_with_handles(clip, setup.handles, setup.identities)
    identified = model_with_identities(model.clone(), setup.identities, patched_clip)
    setup = setup.after(earlier)

    def edits(run: SamplingRun) -> list[LagEdit]:
        prompts = None if run.sigmas is None else run.positive
        try:
            return [setup.edit(run.last_t, prompts, on_masks)]
        except PromptError as error:
            remedy = "Encode the prompt with the CLIP that knows the name."
            raise PromptError(f"{error} {remedy} {HIDDEN}") from error

    patched = with_edits(identified, KEY, edits, replace=True)
    patched.set_attachments(KEY, setup.concepts)
    return patched, patched_clip
