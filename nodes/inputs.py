"""Inputs that many nodes have."""

from __future__ import annotations

from comfy_api.latest import io

OF_THE_CHECKPOINT = "The {} of the same checkpoint."
OF_ITS_FAMILY = "A model of the same family as the one that the concept was trained on."
KNOWS_NAMES = "Its CLIP; after Apply Concept it knows learned names."


def model_inputs(model: str, clip: str = "", vae: str | None = None) -> list[io.Input]:
    """MODEL and CLIP, and VAE if it has a tooltip; "" is that of the checkpoint."""
    inputs: list[io.Input] = [
        io.Model.Input("model", tooltip=model),
        io.Clip.Input("clip", tooltip=clip or OF_THE_CHECKPOINT.format("CLIP")),
    ]
    if vae is not None:
        inputs.append(io.Vae.Input("vae", tooltip=vae or OF_THE_CHECKPOINT.format("VAE")))
    return inputs


def seed_input(
    tooltip: str,
    *,
    default: int = 0,
    most: int = 2**32 - 1,
    changes: bool = False,
    advanced: bool | None = None,
) -> io.Input:
    """A seed.

    Args:
        changes: the editor offers to change it after every run.
    """
    return io.Int.Input(
        "seed",
        default=default,
        min=0,
        max=most,
        control_after_generate=changes,
        advanced=advanced,
        tooltip=tooltip,
    )
