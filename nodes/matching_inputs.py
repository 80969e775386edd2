"""Widgets and outputs that RoI Matching and Concept Discovery share."""

from __future__ import annotations

from comfy_api.latest import io

from ..methods.clic.config import CLiCConfig
from ..methods.clic.matching import ReadConfig
from ..training.adapters import Scope

SCOPES = (
    Scope.CROSS_ATTENTION.value,
    Scope.CROSS_ATTENTION_KV.value,
    Scope.LOW_RANK.value,
)


def model_inputs() -> list[io.Input]:
    """MODEL, CLIP and VAE."""
    return [
        io.Model.Input("model", tooltip="The base model, without the concept applied."),
        io.Clip.Input("clip", tooltip="Its CLIP, without the concept applied."),
        io.Vae.Input("vae", tooltip="Its VAE, which takes the pictures to latents."),
    ]


def learning_inputs(steps: int, rate: float) -> list[io.Input]:
    """What is learned on, how long and how fast."""
    return [
        io.String.Input(
            "object_word",
            default=CLiCConfig().object_word,
            tooltip="A word for what carries the detail in the pictures: chair, bench, cup.",
        ),
        io.Int.Input(
            "steps",
            default=steps,
            min=1,
            max=100000,
            tooltip="Optimizer steps: 500 as in the paper; fewer find less.",
        ),
        io.Float.Input(
            "rate",
            default=rate,
            min=1e-7,
            max=1.0,
            step=1e-6,
            round=1e-7,
            advanced=True,
            tooltip="Learning rate: too small finds nothing, too large loses the word.",
        ),
        io.Boolean.Input(
            "checkpointing",
            default=False,
            advanced=True,
            tooltip="On: needs less memory and a third more time to learn.",
        ),
    ]


def reading_inputs() -> list[io.Input]:
    """How maps become masks."""
    config = ReadConfig()
    return [
        io.Int.Input(
            "read_steps",
            default=config.steps,
            min=1,
            max=1000,
            advanced=True,
            tooltip="Noise levels that a picture is read at: 50 as the authors, 10 is quicker.",
        ),
        io.Float.Input(
            "threshold",
            default=round(config.threshold, 3),
            min=0.0,
            max=1.0,
            step=0.01,
            round=0.001,
            tooltip="Where a heat-map is cut: low gives large masks, high small ones.",
        ),
    ]


def seed_input() -> io.Input:
    """Of learning and reading alike."""
    return io.Int.Input(
        "seed",
        default=0,
        min=0,
        max=2**32 - 1,
        control_after_generate=False,
        tooltip="Of all that is drawn by chance; the same seed gives the same masks.",
    )


def match_outputs() -> list[io.Output]:
    """What was found in every picture."""
    return [
        io.Mask.Output("masks", tooltip="One mask per picture, white where the detail belongs."),
        io.Mask.Output("heat_maps", tooltip="What they were cut from, 0 to 1, one per picture."),
        io.Image.Output("overlay", tooltip="The pictures with heat-map and outline, to look at."),
    ]
