"""Inputs and outputs of Train Personalized Residuals; defaults come from the method's config."""

from __future__ import annotations

from comfy_api.latest import io

from ..methods.personalized_residuals import PersonalizedResidualsConfig
from ..training.recipe import LoopConfig
from .runs import models_to_train, name_input, preview_inputs
from .sockets import LearnedConcept
from .widgets import named_widgets, widgets_of


def residuals_inputs() -> list[io.Input]:
    """The inputs, the important ones first."""
    previews = preview_inputs(50, "the training prompt.")
    config = PersonalizedResidualsConfig()
    return [*_sockets(), *widgets_of(config), *named_widgets(LoopConfig(), "save_every"), *previews]


def _sockets() -> list[io.Input]:
    return [
        *models_to_train(),
        io.Image.Input(
            "images",
            tooltip="3 to 5 pictures of the same object, or one; a batch of the same size. The "
            "alpha channel is ignored.",
        ),
        io.String.Input(
            "handle",
            default="my-cat",
            tooltip="The name to write as <my-cat> in prompts.",
        ),
        io.String.Input(
            "class_word",
            default="cat",
            tooltip="The class of the object, one plain word or several. Specific is better: "
            "sports car rather than vehicle. Write it after the name in prompts.",
        ),
        io.String.Input(
            "captions",
            default="",
            multiline=True,
            advanced=True,
            tooltip="One caption per picture, with {} in place of name and class word, for "
            "example: a photo of a {} on a sofa. Empty: all pictures use the prompt below.",
        ),
        name_input("my-cat"),
    ]


def residuals_outputs() -> list[io.Output]:
    return [
        LearnedConcept.Output("concept", tooltip="For Apply LAG, LAG Sampler, Save and Export."),
        io.Model.Output(
            "model", tooltip="The MODEL with the residuals applied everywhere (without LAG)."
        ),
        io.Clip.Output("clip", tooltip="The CLIP that knows the name."),
        io.Image.Output("samples", tooltip="The preview prompts, drawn without LAG."),
        io.Image.Output(
            "timeline",
            tooltip="All previews from the same noise. Use them to choose the number of steps.",
        ),
        io.Image.Output("attention", tooltip="The attention of the name on the first picture."),
        io.Image.Output("loss_plot", tooltip="The loss by step."),
        io.LossMap.Output("loss_map", tooltip="The losses, for ComfyUI's own Plot Loss Graph."),
        io.String.Output("report", tooltip="Loss, size, path of the saved file, and a prompt."),
    ]
