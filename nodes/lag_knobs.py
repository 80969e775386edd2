"""Inputs of the LAG nodes: models and concepts, and the widgets that localise them."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io
from torch import Tensor

from ..attention.lag import LagConfig, Unconditional
from ..concepts.concept import Concept
from ..errors import MaskError
from ..methods.personalized_residuals import Localised
from .shared import CATEGORY
from .sockets import LearnedConcept

DEFAULT = LagConfig()
FIRST = ("strength", "localised")  # what most people turn; the others are advanced
LAG_CATEGORY = f"{CATEGORY}/LAG"
MOST_CONCEPTS = 8
OF_ONE = "From Train Personalized Residuals, or Load Concept: low-rank, on output projections only."
PROMPT = "Has to hold every concept's name and class word, for example: a photo of a <my-cat> cat."


def model_inputs() -> list[io.Input]:
    return [
        io.Model.Input("model", tooltip="Of the kind that the concept was learned on."),
        io.Clip.Input("clip", tooltip="The CLIP of the same checkpoint."),
    ]


def concepts_input() -> io.Input:
    template = io.Autogrow.TemplatePrefix(
        LearnedConcept.Input("concept", tooltip=OF_ONE),
        prefix="concept",
        min=1,
        max=MOST_CONCEPTS,
    )
    return io.Autogrow.Input(
        "concepts",
        template=template,
        tooltip="One or several; a new socket appears with every one that you connect. Where two "
        "are looked for, the one with the stronger attention stays.",
    )


def lag_inputs() -> list[io.Input]:
    """The widgets, in the order in which a user reads them."""
    return [
        io.Float.Input(
            "strength",
            default=DEFAULT.strength,
            min=-4.0,
            max=4.0,
            step=0.05,
            tooltip="How much of the residual is added where the concept is. 0 is the base model, "
            "bit for bit; 1 is as learned; more exaggerates.",
        ),
        io.Boolean.Input(
            "localised",
            default=DEFAULT.localised,
            tooltip="On: LAG, the residual works only where the name is looked for. Off: it works "
            "everywhere, as a plain LoRA does. Compare: some pictures are better without.",
        ),
        _share(
            "quantile",
            DEFAULT.quantile,
            "Share of every block's positions that stays with the base model. 0.5 is the paper's "
            "median; 0 leaves out nothing, 1 everything. More for small objects.",
        ),
        _width(
            "softness",
            DEFAULT.softness,
            4.0,
            "Width of the mask's edge, in standard deviations of the attention. 0 is the paper's "
            "hard edge; 1 fades gently.",
        ),
        _width(
            "smoothing",
            DEFAULT.smoothing,
            8.0,
            "Blur of the attention before it is cut, in cells of the block's map. 0 is none; 1 "
            "closes holes.",
        ),
        _share(
            "start",
            DEFAULT.start,
            "Share of the schedule before which the base model draws alone. 0 begins at once; "
            "0.2 leaves the layout to the base model.",
        ),
        _share(
            "end",
            DEFAULT.end,
            "Share of the schedule after which the base model draws alone again. 1 goes to the "
            "end; 0.8 leaves fine detail to the base model.",
        ),
        io.Combo.Input(
            "negative_rows",
            options=[choice.value for choice in Unconditional],
            default=DEFAULT.unconditional.value,
            advanced=True,
            tooltip="Where the residual works in the pass of the negative prompt, which does not "
            "hold the name. Same mask: where the positive one has it. Nowhere: base model, a "
            "stronger pull. Everywhere: as a plain LoRA.",
        ),
        io.Boolean.Input(
            "use_class_word",
            default=True,
            advanced=True,
            tooltip="On: attention of the name and of the class word behind it, as in the paper. "
            "Off: of the name alone; then prompts need no class word.",
        ),
        io.String.Input(
            "class_word",
            default="",
            advanced=True,
            tooltip="Empty: the class word that the concept was learned with. Another word, such "
            "as tiger, when your prompt says that.",
        ),
        io.Mask.Input(
            "mask",
            optional=True,
            tooltip="Paint where the concept may be: the residual then works only where this mask "
            "and the attention agree (or in all of it with localised off).",
        ),
    ]


def localised_of(concept: Concept, mask: Tensor | None, knobs: dict[str, Any]) -> Localised:
    """A concept with what the widgets say; `knobs` are those of `lag_inputs` but the mask.

    Raises:
        ConfigError: a value makes no sense.
        MaskError: several masks came for one concept.
    """
    config = LagConfig(
        unconditional=Unconditional(knobs["negative_rows"]),
        **{
            name: knobs[name]
            for name in (*FIRST, "quantile", "softness", "smoothing", "start", "end")
        },
    )
    word = (knobs["class_word"].strip() or None) if knobs["use_class_word"] else ""
    return Localised(concept=concept, config=config, class_word=word, mask=_one_mask(mask))


def _one_mask(mask: Tensor | None) -> Tensor | None:
    if mask is None or mask.ndim == 2:
        return mask
    if mask.ndim != 3 or len(mask) != 1:
        raise MaskError(
            f"The mask has the shape {list(mask.shape)}; a concept takes one mask. Give one of "
            "the batch, or one Apply LAG to each concept."
        )
    return mask[0]


def _share(name: str, default: float, tooltip: str) -> io.Input:
    return io.Float.Input(
        name, default=default, min=0.0, max=1.0, step=0.01, advanced=True, tooltip=tooltip
    )


def _width(name: str, default: float, most: float, tooltip: str) -> io.Input:
    return io.Float.Input(
        name, default=default, min=0.0, max=most, step=0.05, advanced=True, tooltip=tooltip
    )
