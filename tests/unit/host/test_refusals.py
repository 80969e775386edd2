"""What is no base model for the methods is refused in words, before anything is computed."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from conceptloom.errors import ImageError, ModelError, UnsupportedModelError
from conceptloom.host.diffusers import DiffusersHost

from ..tiny_models import UNETS, diffusers, text_encoder, tiny_host


def host_of(**parts: object) -> DiffusersHost:
    whole = tiny_host()
    given = {"unet": whole.unet, "vae": whole.vae, "encoders": whole._encoders}
    return DiffusersHost(**{**given, "scheduler": diffusers.DDPMScheduler(), **parts})


@pytest.mark.parametrize("part", ["unet", "text_encoder"])
def test_other_pipelines(part: str) -> None:
    """Flux and SD3 have no UNet; SDXL's refiner has no first text encoder."""
    parts = dict.fromkeys(("unet", "vae", "text_encoder", "tokenizer", "scheduler"), object())
    del parts[part]
    with pytest.raises(UnsupportedModelError, match=f"has no {part}.*StableDiffusionXLPipeline"):
        DiffusersHost.from_pipeline(SimpleNamespace(**parts))


def test_other_predictions() -> None:
    with pytest.raises(UnsupportedModelError, match="predicts a flow"):
        host_of(scheduler=diffusers.FlowMatchEulerDiscreteScheduler())
    with pytest.raises(UnsupportedModelError, match="predicts sample"):
        host_of(scheduler=diffusers.DDPMScheduler(prediction_type="sample"))


def test_unets_with_further_inputs() -> None:
    unet = diffusers.UNet2DConditionModel(**{**UNETS["sd1"], "in_channels": 9})
    with pytest.raises(UnsupportedModelError, match=r"takes 9 channels.*VAE makes 4.*inpainting"):
        host_of(unet=unet)


def test_text_encoders_of_another_model() -> None:
    with pytest.raises(
        ModelError, match=r"\(clip_l\) make contexts 24 wide, but the UNet reads 16"
    ):
        host_of(encoders=[text_encoder("clip_l", 24, 0)])


def test_fused_projections() -> None:
    """Their edits would be passed over in silence."""
    unet = tiny_host().unet
    unet.fuse_qkv_projections()
    with pytest.raises(ModelError, match="unfuse_qkv_projections"):
        host_of(unet=unet)
    unet.unfuse_qkv_projections()
    host_of(unet=unet)


@pytest.mark.parametrize("shape", [(1, 17, 16, 3), (1, 16, 15, 3), (1, 16, 16, 1), (16, 16, 3)])
def test_pictures_that_no_latents_cover(shape: tuple[int, ...]) -> None:
    with pytest.raises(ImageError, match=r"multiples of 2|batch x height x width x 3"):
        tiny_host().encode_image(torch.rand(shape))
