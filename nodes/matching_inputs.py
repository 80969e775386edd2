"""Widgets and outputs that RoI Matching and Concept Discovery share."""

from __future__ import annotations

from dataclasses import replace

from comfy_api.latest import io

from ..methods.clic.config import CLiCConfig
from ..methods.clic.matching import ReadConfig
from ..training.adapters import Scope
from .inputs import model_inputs, seed_input
from .widgets import widgets_of

SCOPES = (
    Scope.CROSS_ATTENTION.value,
    Scope.CROSS_ATTENTION_KV.value,
    Scope.LOW_RANK.value,
)


def picture_reader() -> list[io.Input]:
    """MODEL, CLIP and VAE."""
    return model_inputs(
        "The base model, without the concept applied.",
        "Its CLIP, without the concept applied.",
        "Its VAE, which encodes the pictures.",
    )


def learning_inputs(steps: int, rate: float) -> list[io.Input]:
    """The widgets of training."""
    return [
        io.String.Input(
            "object_word",
            default=CLiCConfig().object_word,
            tooltip="A word for the object that carries the detail: chair, bench, cup.",
        ),
        io.Int.Input(
            "steps",
            default=steps,
            min=1,
            max=100000,
            tooltip="Training steps. The paper uses 500; fewer localise worse.",
        ),
        io.Float.Input(
            "rate",
            default=rate,
            min=1e-7,
            max=1.0,
            step=1e-6,
            round=1e-7,
            advanced=True,
            tooltip="Learning rate. Low values locate nothing, high values lose the word.",
        ),
        io.Boolean.Input(
            "checkpointing",
            default=False,
            advanced=True,
            tooltip="Gradient checkpointing. On: less memory, a third more training time. Off: "
            "faster.",
        ),
    ]


def reading_inputs() -> list[io.Input]:
    """The widgets of reading maps, and the seed."""
    config = ReadConfig()
    # Saved graphs hold three digits of 100/255.
    return [
        *widgets_of(replace(config, threshold=round(config.threshold, 3))),
        seed_input("Seed of all randomness; the same seed gives the same masks."),
    ]


def match_outputs() -> list[io.Output]:
    """The outputs for every picture."""
    return [
        io.Mask.Output("masks", tooltip="One mask per picture; white is the place for the detail."),
        io.Mask.Output(
            "heat_maps", tooltip="The heat maps behind the masks, 0 to 1, one per picture."
        ),
        io.Image.Output("overlay", tooltip="The pictures with heat map and outline."),
    ]
