"""Inputs and outputs of Train Personalized Residuals; defaults come from the method's config."""

from __future__ import annotations

from comfy_api.latest import io

from ..methods.personalized_residuals import PersonalizedResidualsConfig
from ..training.recipe import LoopConfig
from .runs import model_inputs, name_input, preview_inputs
from .sockets import LearnedConcept
from .widgets import named_widgets, widgets_of


def residuals_inputs() -> list[io.Input]:
    """What a user sees first, first."""
    previews = preview_inputs(50, "the one of the training.")
    config = PersonalizedResidualsConfig()
    return [*_sockets(), *widgets_of(config), *named_widgets(LoopConfig(), "save_every"), *previews]


def _sockets() -> list[io.Input]:
    return [
        *model_inputs(),
        io.Image.Input(
            "images",
            tooltip="3 to 5 pictures of the same thing, or a single one; a batch of one size. An "
            "alpha channel is ignored.",
        ),
        io.String.Input(
            "handle",
            default="my-cat",
            tooltip="The name that you will write as <my-cat> in prompts.",
        ),
        io.String.Input(
            "class_word",
            default="cat",
            tooltip="What kind of thing it is, one plain word or several. The closer the better: "
            "sports car is better than vehicle. Write it behind the name in prompts.",
        ),
        io.String.Input(
            "captions",
            default="",
            multiline=True,
            advanced=True,
            tooltip="One line for each picture, with {} where name and class word stand, for "
            "example: a photo of a {} on a sofa. Empty: the prompt below for all.",
        ),
        name_input("my-cat"),
    ]


def residuals_outputs() -> list[io.Output]:
    return [
        LearnedConcept.Output("concept", tooltip="For Apply LAG, LAG Sampler, Save and Export."),
        io.Model.Output("model", tooltip="The MODEL with the residuals everywhere (LAG off)."),
        io.Clip.Output("clip", tooltip="The CLIP that knows the name."),
        io.Image.Output("samples", tooltip="The preview prompts, drawn without LAG."),
        io.Image.Output("timeline", tooltip="All previews from the same noise: see when to stop."),
        io.Image.Output("attention", tooltip="Where the name looks in the first picture."),
        io.Image.Output("loss_plot", tooltip="The loss over the steps."),
        io.LossMap.Output("loss_map", tooltip="The losses, for ComfyUI's own Plot Loss Graph."),
        io.String.Output("report", tooltip="Loss, size, where it was saved, and a prompt."),
    ]
