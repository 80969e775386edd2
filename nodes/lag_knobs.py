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
OF_ONE = (
    "From Train Personalized Residuals or Load Concept: a low-rank concept on output "
    "projections only."
)
PROMPT = "Must contain every concept's name and class word, for example: a photo of a <my-cat> cat."


def model_inputs() -> list[io.Input]:
    return [
        io.Model.Input(
            "model",
            tooltip="A model of the same family as the one that the concept was trained on.",
        ),
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
        tooltip="One or several; each connection adds a free socket. Where two concepts overlap, "
        "the one with the stronger attention wins.",
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
            tooltip="Strength of the residual inside the concept's region. 0 is the base "
            "model, bit for bit; 1 is as trained; more exaggerates.",
        ),
        io.Boolean.Input(
            "localised",
            default=DEFAULT.localised,
            tooltip="On: LAG applies the residual only where the picture attends to the name. "
            "Off: the residual works everywhere, like a plain LoRA. Compare both: some "
            "pictures are better without LAG.",
        ),
        _share(
            "quantile",
            DEFAULT.quantile,
            "Share of each block's positions that stay with the base model. 0.5 is the paper's "
            "median; 0 excludes nothing, 1 everything. Raise it for small objects.",
        ),
        _width(
            "softness",
            DEFAULT.softness,
            4.0,
            "Softness of the mask's edge, in standard deviations of the attention. 0 is the "
            "paper's hard edge; 1 fades gently.",
        ),
        _width(
            "smoothing",
            DEFAULT.smoothing,
            8.0,
            "Blur of the attention before thresholding, in cells of the block's map. 0 "
            "disables it; 1 closes holes.",
        ),
        _share(
            "start",
            DEFAULT.start,
            "Start, as a share of the schedule; before it only the base model draws. 0 starts "
            "at once; 0.2 leaves the layout to the base model.",
        ),
        _share(
            "end",
            DEFAULT.end,
            "End, as a share of the schedule; after it only the base model draws. 1 continues "
            "to the end; 0.8 leaves fine detail to the base model.",
        ),
        io.Combo.Input(
            "negative_rows",
            options=[choice.value for choice in Unconditional],
            default=DEFAULT.unconditional.value,
            advanced=True,
            tooltip="Where the residual works in the negative prompt's pass, which does not "
            "contain the name. Same mask: in the positive prompt's region. Nowhere: base "
            "model, stronger effect. Everywhere: like a plain LoRA.",
        ),
        io.Boolean.Input(
            "use_class_word",
            default=True,
            advanced=True,
            tooltip="On: uses the attention of the name and of the class word after it, as in "
            "the paper. Off: of the name alone; prompts then need no class word.",
        ),
        io.String.Input(
            "class_word",
            default="",
            advanced=True,
            tooltip="Class word in your prompt, such as tiger, if it differs from the one used "
            "in training. Empty: the one used in training.",
        ),
        io.Mask.Input(
            "mask",
            optional=True,
            tooltip="Limits the concept to this region: the residual works only where this "
            "mask and the attention agree (or in the whole mask with localised off).",
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
    return Localised(concept=concept, config=config, class_word=word, mask=one_mask(mask))


def one_mask(mask: Tensor | None) -> Tensor | None:
    """The mask of a MASK that holds one."""
    if mask is None or mask.ndim == 2:
        return mask
    if mask.ndim != 3 or len(mask) != 1:
        raise MaskError(
            f"The mask has the shape {list(mask.shape)}; one mask is taken here. Connect one mask "
            "of the batch, and use one such node per concept or LoRA."
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
