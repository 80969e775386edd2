"""The options by which every benchmark opens its model."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest
import torch
from harness import models
from harness.models import (
    PRESETS,
    add_model_options,
    describe_model,
    latent_side,
    open_model,
    picture_side,
)
from speed.break_a_scene import OfficialRecipe
from speed.official import draw_for, make_pictures, scene_of
from speed.steps import ratio

from conceptloom.cli.models import open_host
from conceptloom.methods.break_a_scene import BreakAScene, BreakASceneConfig, TokenPhase
from conceptloom.methods.personalized_residuals import PersonalizedResidualsConfig
from conceptloom.training.adapters import rank_for
from conceptloom.training.loop import step_generator


def options(*given: str, preset: str = "tiny") -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_model_options(parser, preset)
    return parser.parse_args(given)


def test_a_preset_is_the_same_model_every_time() -> None:
    first, second = open_model(options()), open_model(options())
    assert all(
        torch.equal(a, b)
        for a, b in zip(first.unet.parameters(), second.unet.parameters(), strict=True)
    )
    assert latent_side(first) == PRESETS["tiny"].latent
    assert picture_side(first) == PRESETS["tiny"].pixels


def test_a_checkpoint_takes_the_place_of_the_preset(saved_model: Path) -> None:
    asked = options("--checkpoint", str(saved_model), "--dtype", "bf16")
    host = open_model(asked)
    assert host.fingerprint == open_host().fingerprint
    assert host.dtype is torch.bfloat16
    assert (latent_side(host), picture_side(host)) == (16, 128)
    assert f"Checkpoint `{saved_model.name}`" in describe_model(asked, host)


REAL = {  # numbers in the published weights: UNet, VAE, text encoders
    "sd15": (859_520_964, 83_653_863, [123_060_480]),
    "sd21": (865_910_724, 83_653_863, [340_387_840]),
    "sdxl": (2_567_463_684, 83_653_863, [123_060_480, 694_659_840]),
}


def size(network: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.parametrize("name", REAL)
def test_presets_have_the_size_of_the_real_models(name: str) -> None:
    preset = PRESETS[name]
    with torch.device("meta"):
        unet, vae = models._unet(preset), models._vae(preset)
        texts = [models._text_encoder(preset, *text).model for text in preset.texts]
    assert (size(unet), size(vae), [size(text) for text in texts]) == REAL[name]


@pytest.mark.parametrize("name", ["sd15", "sd21"])
def test_presets_have_the_projections_of_the_real_models(name: str) -> None:
    """The count of Personalized Residuals that the paper's 1.2 M is, from shapes alone."""
    with torch.device("meta"):
        unet = models._unet(PRESETS[name])
    outputs = [m.proj_out.weight for m in unet.modules() if hasattr(m, "proj_out")]
    ratio = PersonalizedResidualsConfig().ratio
    trained = sum(2 * w.shape[0] * rank_for(ratio, w.shape[0]) for w in outputs)
    assert (len(outputs), trained) == (16, 1_239_040)


def test_official_and_ours_agree_on_a_model_that_predicts_v(saved_model: Path) -> None:
    """On the same draws, term by term; the two compute attention and masks in different ways."""
    asked = options("--checkpoint", str(saved_model))
    host, theirs = open_model(asked), open_model(asked)
    assert host.noise_path.name == "v"
    image, masks, class_image = make_pictures(picture_side(host))
    scene = scene_of(image, masks)
    recipe = BreakAScene(host, scene, BreakASceneConfig(token_phase=TokenPhase(steps=0)))
    recipe.class_latents = host.encode_image(class_image[None])
    phase = recipe.phases()[-1]
    with recipe.computing(phase):
        ours = recipe.losses(phase, step_generator(0, 0))
    draw = draw_for(0, scene, (host.latent_channels, 16, 16), "cpu")
    official = OfficialRecipe(theirs, image, masks, class_image)._losses(draw)
    for name, value in official.items():
        assert float(ours[name].detach()) == pytest.approx(float(value.detach()), rel=1e-4), name


def test_a_part_of_the_variants_is_compared_where_it_can_be() -> None:
    told = {
        name: [{"seconds": 9.0, "cpu": 9.0}, {"seconds": seconds, "cpu": 2 * seconds}]
        for name, seconds in (("official", 6.0), ("full", 2.0))
    }
    assert ratio([told], "official", "full", "full") == {"seconds": 3.0, "cpu": 3.0}
    assert ratio([told], "maps", "forward", "full") is None
    assert ratio([told], "official", "forward", "full") is None
