"""Checks that the methods support a diffusers pipeline."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...errors import ModelError, UnsupportedModelError

PARTS = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")
PREDICTS = ("epsilon", "v_prediction")


def check_pipeline(pipeline: Any) -> None:
    """UnsupportedModelError when a pipeline lacks what a base model is made of."""
    if lost := [part for part in PARTS if getattr(pipeline, part, None) is None]:
        raise UnsupportedModelError(
            f"This {type(pipeline).__name__} has no {lost[0]}; ConceptLoom works with "
            "StableDiffusionPipeline (1.x, 2.x) and StableDiffusionXLPipeline."
        )


def check_fits(unet: Any, vae: Any, widths: Mapping[str, int], scheduler: Any) -> None:
    """Whether the parts of a base model belong to each other.

    Args:
        widths: of the text encoders.

    Raises:
        UnsupportedModelError: another kind of prediction, or a UNet with further inputs.
        ModelError: the parts are those of different models, or their projections are fused.
    """
    prediction = getattr(scheduler.config, "prediction_type", None)
    if prediction not in PREDICTS:
        raise UnsupportedModelError(
            f"The model of this {type(scheduler).__name__} predicts {prediction or 'a flow'}; "
            "ConceptLoom supports noise (epsilon) and velocity (v_prediction)."
        )
    takes, makes = unet.config.in_channels, vae.config.latent_channels
    if takes != makes:
        raise UnsupportedModelError(
            f"The UNet takes {takes} channels but the VAE makes {makes}; models for inpainting "
            "and editing take additional channels. Load the plain text-to-image model."
        )
    reads, width = unet.config.cross_attention_dim, sum(widths.values())
    if reads != width:
        raise ModelError(
            f"The text encoders ({', '.join(widths)}) make contexts {width} wide, but the UNet "
            f"reads {reads}; load both from the same model."
        )
    processors = [type(getattr(module, "processor", None)).__name__ for module in unet.modules()]
    if any(name.startswith("Fused") for name in processors):
        raise ModelError(
            "The UNet's attention projections are fused, which hides keys and values; call "
            "unfuse_qkv_projections() first."
        )
