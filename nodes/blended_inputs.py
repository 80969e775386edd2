"""Widgets of the blended nodes; defaults come from the configs."""

from __future__ import annotations

from collections.abc import Sequence

from comfy_api.latest import io

from ..samplers.editing import EditConfig
from .inputs import KNOWS_NAMES, model_inputs, seed_input
from .widgets import named_widgets, widgets_of

FEATHER_PX = 4  # seam of a 512 px picture; ours


def composite_inputs() -> list[io.Input]:
    """The widgets of compositing."""
    return [
        io.Boolean.Input(
            "composite",
            default=True,
            tooltip="On: every pixel outside the mask stays exact. Off: the whole picture "
            "passes through the VAE, which changes it slightly everywhere.",
        ),
        io.Int.Input(
            "feather_px",
            default=FEATHER_PX,
            min=0,
            max=256,
            tooltip="Width of the seam inside the mask, in pixels: 0 is a hard edge, 16 a soft "
            "one.",
        ),
    ]


def edit_inputs(schedulers: Sequence[str]) -> list[io.Input]:
    """All inputs of Masked Blended Edit."""
    config = EditConfig()
    return [
        *model_inputs(
            "The model, with or without concepts and guidance.",
            KNOWS_NAMES,
            "Its VAE, for encoding and decoding.",
        ),
        io.Image.Input("image", tooltip="The picture to edit."),
        io.Mask.Input(
            "mask",
            tooltip="White is redrawn, grey is mixed. A batch of masks makes regions, each "
            "with its own line in the prompts.",
        ),
        io.String.Input(
            "prompts",
            default="a photo of a cup",
            multiline=True,
            dynamic_prompts=True,
            tooltip="What to draw under the mask: one line for each mask in order, or one line "
            "for all. Learned names such as <my-mug> work here.",
        ),
        io.String.Input(
            "negative",
            default="",
            multiline=True,
            dynamic_prompts=True,
            tooltip="What to avoid; may be empty.",
        ),
        seed_input("Seed of all noise; the same seed gives the same picture.", changes=True),
        *named_widgets(config, "steps", "cfg"),
        io.Combo.Input(
            "scheduler",
            options=list(schedulers),
            default="ddim_uniform",
            tooltip="Spacing of the noise levels; both papers use ddim_uniform.",
        ),
        *widgets_of(config.blend),
        *named_widgets(config, "harmonise_steps"),
        io.String.Input(
            "harmonise_prompt",
            default="",
            dynamic_prompts=True,
            advanced=True,
            tooltip="Prompt of the harmonising steps, without the learned name: a chair. Empty "
            "keeps your prompt.",
        ),
        *composite_inputs(),
        io.Model.Input(
            "base_model",
            optional=True,
            tooltip="The model for the harmonising steps, without the concept. Without it, "
            "they use the same model.",
        ),
    ]
