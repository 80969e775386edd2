"""Inputs of the LAG nodes: models and concepts, and the widgets that localise them."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io
from torch import Tensor

from ..attention.lag_config import LagConfig
from ..concepts.concept import Concept
from ..errors import MaskError
from ..methods.personalized_residuals import Localised
from ..training.setting import changed, settings_in
from .shared import CATEGORY
from .sockets import LearnedConcept
from .widgets import widgets_of

LAG_CATEGORY = f"{CATEGORY}/LAG"
MOST_CONCEPTS = 8
OF_ONE = (
    "A concept with one name: from Train Personalized Residuals, Load Concept or Import LoRA as "
    "Concept."
)
PROMPT = "Must contain every concept's name and class word, for example: a photo of a <my-cat> cat."


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
    """The widgets, in the order on the node."""
    return [
        *widgets_of(LagConfig()),
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


def localised_of(concept: Concept, mask: Tensor | None, widgets: dict[str, Any]) -> Localised:
    """A concept with the settings of the widgets, `lag_inputs` without the mask.

    Raises:
        ConfigError: a value is invalid.
        MaskError: there are several masks for one concept.
    """
    settings = {one.name: widgets[one.name] for one in settings_in(LagConfig())}
    config = changed(LagConfig(), settings)
    word = (widgets["class_word"].strip() or None) if widgets["use_class_word"] else ""
    return Localised(concept=concept, config=config, class_word=word, mask=one_mask(mask))


def one_mask(mask: Tensor | None) -> Tensor | None:
    """The mask of a MASK with a single one."""
    if mask is None or mask.ndim == 2:
        return mask
    if mask.ndim != 3 or len(mask) != 1:
        raise MaskError(
            f"The mask has the shape {list(mask.shape)}; one mask is taken here. Connect one mask "
            "of the batch, and use one such node per concept or LoRA."
        )
    return mask[0]
