"""Names of a UNet's parts agree with diffusers' own converter and with LoRA files."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from conceptloom.host.families.unet_names import SD1 as SD1_LAYOUT
from conceptloom.host.families.unet_names import (
    Layout,
    diffusers_prefixes,
    lora_name,
    original_prefixes,
    with_prefix,
)

SD1 = "unet320 context768 clip_l768 eps 4ch 12345678"
SDXL = "unet640 context2048 clip_g1280 clip_l768 eps 4ch 12345678"
SDXL_SIZES: dict[str, Any] = {
    "block_out_channels": (32, 64, 64),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": (1, 2, 3),
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 8,
    "projection_class_embeddings_input_dim": 64,
}
SMALL = {"block_out_channels": (32, 32), "layers_per_block": 1,
         "down_block_types": ("CrossAttnDownBlock2D",) * 2,
         "up_block_types": ("CrossAttnUpBlock2D",) * 2}  # fmt: skip


@pytest.mark.parametrize(
    ("sizes", "layout"),
    [
        ({}, SD1_LAYOUT),
        (SDXL_SIZES, Layout((False, True, True))),
        (SMALL, Layout((True, True), resnets=1)),
    ],
    ids=["SD1", "SDXL", "TinyWorld"],
)
def test_diffusers_converter_gives_the_same_names(sizes: dict[str, Any], layout: Layout) -> None:
    diffusers = pytest.importorskip("diffusers")
    from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint

    from conceptloom.host.diffusers.sites import canonical_unet_names

    with torch.device("meta"):
        unet = diffusers.UNet2DConditionModel(cross_attention_dim=64, **sizes)
    names = {
        original.removeprefix("unet."): path
        for original, path in canonical_unet_names(unet).items()
    }
    tags = {name: torch.tensor(i) for i, name in enumerate(names)}
    checkpoint = {f"model.diffusion_model.{name}": tag for name, tag in tags.items()}
    converted = convert_ldm_unet_checkpoint(checkpoint, dict(unet.config))
    by_tag = {int(tag): path for path, tag in converted.items()}
    assert {name: by_tag[int(tag)] for name, tag in tags.items()} == names
    for name, path in names.items():
        assert with_prefix(path, original_prefixes(layout)) == name
        if "add_embedding" not in path:
            assert with_prefix(name, diffusers_prefixes(layout)) == path


def test_a_name_without_a_known_prefix_is_refused() -> None:
    with pytest.raises(KeyError, match=r"ff\.net"):
        with_prefix("ff.net", {"ff.nets": "x"})


TEXT = "text_model.encoder.layers.0.mlp.fc1"
FLAT = "text_model_encoder_layers_0_mlp_fc1"


@pytest.mark.parametrize(
    ("module", "base", "encoders", "expected"),
    [
        ("unet.input_blocks.1.1.proj_in", SD1, "l", "lora_unet_down_blocks_0_attentions_0_proj_in"),
        ("unet.input_blocks.4.1.proj_in", SDXL, "lg", "lora_unet_input_blocks_4_1_proj_in"),
        ("unet.input_blocks.1.1.proj_in", "unet48 context128 clip_l128 eps", "l",
         "lora_unet_input_blocks_1_1_proj_in"),
        (f"clip_l.{TEXT}", SD1, "l", f"lora_te_{FLAT}"),
        (f"clip_h.{TEXT}", SD1, "h", f"lora_te_{FLAT}"),
        (f"clip_l.{TEXT}", SDXL, "lg", f"lora_te1_{FLAT}"),
        (f"clip_g.{TEXT}", SDXL, "lg", f"lora_te2_{FLAT}"),
        ("clip_l.text_model.final_layer_norm", SD1, "l",
         "text_encoders.clip_l.transformer.text_model.final_layer_norm"),
        ("clip_l.text_model.encoder.layers.0.layer_norm1", SD1, "l",
         "text_encoders.clip_l.transformer.text_model.encoder.layers.0.layer_norm1"),
    ],
)  # fmt: skip
def test_names_in_lora_files(module: str, base: str, encoders: str, expected: str) -> None:
    assert lora_name(module, base, [f"clip_{letter}" for letter in encoders]) == expected
