"""Where things stand in a UNet, and what the original checkpoints call them."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from conceptloom.errors import UnsupportedModelError
from conceptloom.host.diffusers.sites import canonical_unet_names, unet_sites
from conceptloom.host.fingerprint import fingerprint_of
from conceptloom.host.noise import EpsPath
from conceptloom.host.ports import AttentionKind, Place, Role, Rows

from ..tiny_models import FAMILIES, diffusers, tiny_host

SD15 = {"sample_size": 64, "cross_attention_dim": 768, "attention_head_dim": 8}
SD2 = {
    "sample_size": 96,
    "cross_attention_dim": 1024,
    "attention_head_dim": (5, 10, 20, 20),
    "use_linear_projection": True,
}
SDXL = {
    "sample_size": 128,
    "block_out_channels": (320, 640, 1280),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": (1, 2, 10),
    "attention_head_dim": (5, 10, 20),
    "cross_attention_dim": 2048,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}


def on_meta(config: dict[str, Any]) -> Any:
    with torch.device("meta"):
        return diffusers.UNet2DConditionModel(**config)


@pytest.fixture(scope="module")
def real() -> dict[str, Any]:
    return {"sd15": on_meta(SD15), "sd2": on_meta(SD2), "sdxl": on_meta(SDXL)}


# Shapes as they stand in the published checkpoints (v1-5-pruned, v2-1_768-ema, sd_xl_base_1.0).
KNOWN = {
    "sd15": {
        "time_embed.0.weight": (1280, 320),
        "time_embed.2.bias": (1280,),
        "input_blocks.0.0.weight": (320, 4, 3, 3),
        "input_blocks.1.0.in_layers.0.weight": (320,),
        "input_blocks.1.0.in_layers.2.weight": (320, 320, 3, 3),
        "input_blocks.1.0.emb_layers.1.weight": (320, 1280),
        "input_blocks.1.0.out_layers.3.weight": (320, 320, 3, 3),
        "input_blocks.1.1.norm.weight": (320,),
        "input_blocks.1.1.proj_in.weight": (320, 320, 1, 1),
        "input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight": (320, 768),
        "input_blocks.1.1.transformer_blocks.0.ff.net.0.proj.weight": (2560, 320),
        "input_blocks.3.0.op.weight": (320, 320, 3, 3),
        "input_blocks.4.0.skip_connection.weight": (640, 320, 1, 1),
        "input_blocks.9.0.op.weight": (1280, 1280, 3, 3),
        "input_blocks.11.0.out_layers.0.weight": (1280,),
        "middle_block.0.in_layers.2.weight": (1280, 1280, 3, 3),
        "middle_block.1.proj_out.weight": (1280, 1280, 1, 1),
        "middle_block.2.out_layers.3.bias": (1280,),
        "output_blocks.0.0.in_layers.2.weight": (1280, 2560, 3, 3),
        "output_blocks.2.1.conv.weight": (1280, 1280, 3, 3),
        "output_blocks.4.1.transformer_blocks.0.attn2.to_k.weight": (1280, 768),
        "output_blocks.5.2.conv.weight": (1280, 1280, 3, 3),
        "output_blocks.8.0.in_layers.2.weight": (640, 960, 3, 3),
        "output_blocks.8.2.conv.bias": (640,),
        "output_blocks.11.1.transformer_blocks.0.attn1.to_out.0.bias": (320,),
        "out.0.weight": (320,),
        "out.2.weight": (4, 320, 3, 3),
    },
    "sd2": {
        "input_blocks.1.1.proj_in.weight": (320, 320),
        "input_blocks.4.1.transformer_blocks.0.attn2.to_v.weight": (640, 1024),
        "output_blocks.11.1.proj_out.weight": (320, 320),
        "middle_block.1.transformer_blocks.0.norm3.weight": (1280,),
    },
    "sdxl": {
        "label_emb.0.0.weight": (1280, 2816),
        "label_emb.0.2.weight": (1280, 1280),
        "input_blocks.4.1.transformer_blocks.1.attn2.to_k.weight": (640, 2048),
        "input_blocks.6.0.op.weight": (640, 640, 3, 3),
        "input_blocks.8.1.transformer_blocks.9.attn2.to_k.weight": (1280, 2048),
        "middle_block.1.transformer_blocks.9.ff.net.2.weight": (1280, 5120),
        "output_blocks.0.1.transformer_blocks.9.attn1.to_q.weight": (1280, 1280),
        "output_blocks.2.2.conv.weight": (1280, 1280, 3, 3),
        "output_blocks.5.2.conv.weight": (640, 640, 3, 3),
        "output_blocks.8.0.skip_connection.weight": (320, 640, 1, 1),
    },
}
COUNTS = {"sd15": 686, "sd2": 686, "sdxl": 1680}


@pytest.mark.parametrize("kind", list(KNOWN))
def test_canonical_names_are_those_of_the_published_checkpoints(
    real: dict[str, Any], kind: str
) -> None:
    weights = dict(real[kind].named_parameters())
    names = canonical_unet_names(real[kind])
    assert len(names) == COUNTS[kind]
    for name, shape in KNOWN[kind].items():
        assert tuple(weights[names[f"unet.{name}"]].shape) == shape, name


@pytest.mark.parametrize("kind", list(KNOWN))
def test_canonical_names_are_a_bijection(real: dict[str, Any], kind: str) -> None:
    names = canonical_unet_names(real[kind])
    paths = [path for path, _ in real[kind].named_parameters()]
    assert sorted(names.values()) == sorted(paths)
    assert all(name.startswith("unet.") for name in names)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_canonical_weight_is_its_own_tensor(family: str) -> None:
    host = tiny_host(family)
    models = [host.unet, *(e.model for e in host._encoders)]
    theirs = [p.data_ptr() for model in models for p in model.parameters()]
    ours = [host.weight(name).data_ptr() for name in host.weight_names()]
    assert sorted(ours) == sorted(theirs)
    assert not any(host.weight(name).requires_grad for name in host.weight_names())
    text = "clip_l.text_model.encoder.layers.0.self_attn.q_proj.weight"
    assert text in host.weight_names()
    assert "clip_l.text_model.embeddings.token_embedding.weight" in host.weight_names()
    assert ("clip_g.text_projection.weight" in host.weight_names()) == (family == "sdxl")


def test_sites_of_sd15(real: dict[str, Any]) -> None:
    sites = unet_sites(real["sd15"])
    told = [(s.name, s.place.value, s.downsample, s.width, s.heads) for s in sites.transformers]
    assert told == [
        ("input_blocks.1.1", "down", 1, 320, 8),
        ("input_blocks.2.1", "down", 1, 320, 8),
        ("input_blocks.4.1", "down", 2, 640, 8),
        ("input_blocks.5.1", "down", 2, 640, 8),
        ("input_blocks.7.1", "down", 4, 1280, 8),
        ("input_blocks.8.1", "down", 4, 1280, 8),
        ("middle_block.1", "mid", 8, 1280, 8),
        ("output_blocks.3.1", "up", 4, 1280, 8),
        ("output_blocks.4.1", "up", 4, 1280, 8),
        ("output_blocks.5.1", "up", 4, 1280, 8),
        ("output_blocks.6.1", "up", 2, 640, 8),
        ("output_blocks.7.1", "up", 2, 640, 8),
        ("output_blocks.8.1", "up", 2, 640, 8),
        ("output_blocks.9.1", "up", 1, 320, 8),
        ("output_blocks.10.1", "up", 1, 320, 8),
        ("output_blocks.11.1", "up", 1, 320, 8),
    ]
    # the five layers that Break-A-Scene reads: 16x16 maps at 512 px
    assert len(sites.at_downsample(4, (Place.DOWN, Place.UP))) == 5
    resnets = {s.name: (s.number, s.downsample, s.width) for s in sites.resnets}
    assert len(resnets) == 22
    assert resnets["output_blocks.4.0"] == (4, 4, 1280)  # where plug-and-play injects
    assert resnets["middle_block.2"] == (0, 8, 1280)


def test_sites_of_sd2_and_sdxl(real: dict[str, Any]) -> None:
    heads = [s.heads for s in unet_sites(real["sd2"]).transformers]
    assert heads == [5, 5, 10, 10, 20, 20, 20, 20, 20, 20, 10, 10, 10, 5, 5, 5]
    told = [(s.name, s.downsample, s.depth, s.heads) for s in unet_sites(real["sdxl"]).transformers]
    assert told == [
        ("input_blocks.4.1", 2, 2, 10),
        ("input_blocks.5.1", 2, 2, 10),
        ("input_blocks.7.1", 4, 10, 20),
        ("input_blocks.8.1", 4, 10, 20),
        ("middle_block.1", 4, 10, 20),
        ("output_blocks.0.1", 4, 10, 20),
        ("output_blocks.1.1", 4, 10, 20),
        ("output_blocks.2.1", 4, 10, 20),
        ("output_blocks.3.1", 2, 2, 10),
        ("output_blocks.4.1", 2, 2, 10),
        ("output_blocks.5.1", 2, 2, 10),
    ]


@pytest.mark.parametrize("kind", list(KNOWN))
def test_layers_are_all_that_has_weights_and_a_place(real: dict[str, Any], kind: str) -> None:
    names = canonical_unet_names(real[kind])
    weights = {n.rpartition(".")[0].removeprefix("unet."): real[kind] for n in names}
    layers = {site.name: site for site in unet_sites(real[kind]).layers}
    without = {n for n in weights if n.startswith(("time_embed.", "label_emb."))}
    assert layers.keys() == weights.keys() - without
    parameters = dict(real[kind].named_parameters())
    for site in layers.values():
        assert site.module.weight is parameters[names[site.weight]], site.name


def test_layers_of_sd15_and_their_grids(real: dict[str, Any]) -> None:
    sites = unet_sites(real["sd15"])
    layers = {site.name: site for site in sites.layers}
    levels = {
        "input_blocks.0.0": 1,
        "input_blocks.3.0.op": 2,
        "input_blocks.4.0.skip_connection": 2,
        "input_blocks.9.0.op": 8,
        "middle_block.0.in_layers.2": 8,
        "output_blocks.2.1.conv": 4,
        "output_blocks.5.2.conv": 2,
        "output_blocks.8.2.conv": 1,
        "output_blocks.11.1.proj_out": 1,
        "out.2": 1,
    }
    assert {name: layers[name].downsample for name in levels} == levels
    text = {site.name.rpartition(".")[2] for site in sites.layers if site.rows is Rows.TEXT}
    assert text == {"to_k", "to_v"}
    assert sum(site.rows is Rows.TEXT for site in sites.layers) == 2 * 16
    assert sum(site.rows is Rows.WHOLE for site in sites.layers) == 22  # one of each ResNet block
    kinds = [site.kind for site in sites.attentions]
    assert kinds == [AttentionKind.SELF, AttentionKind.CROSS] * 16
    assert all(Role.CROSS_KV in s.key.roles for s in sites.attentions[1::2])
    assert not any(Role.ATTENTION in s.key.roles for s in sites.attentions[::2])


def test_other_models_are_refused_by_name() -> None:
    with torch.device("meta"):
        dit = diffusers.SD3Transformer2DModel(
            sample_size=8, num_layers=1, num_attention_heads=2, caption_projection_dim=128
        )
        plain = diffusers.UNet2DModel(
            block_out_channels=(32, 64),
            down_block_types=("DownBlock2D", "AttnDownBlock2D"),
            up_block_types=("AttnUpBlock2D", "UpBlock2D"),
            norm_num_groups=8,
        )
    for model in (dit, plain, torch.nn.Linear(2, 2)):
        with pytest.raises(UnsupportedModelError, match=f"(?s){type(model).__name__}.*SDXL"):
            unet_sites(model)


def test_fingerprints_tell_families_apart_and_ignore_weights() -> None:
    prints = {family: tiny_host(family).fingerprint for family in ("sd1", "sdxl")}
    velocity = tiny_host("sd1", velocity=True).fingerprint
    assert len({*prints.values(), velocity}) == 3
    assert tiny_host("sd1", seed=5).fingerprint == prints["sd1"]
    assert prints["sd1"].startswith("unet16 context16 clip_l16 eps 4ch ")
    assert " v 4ch " in velocity


def test_a_fingerprint_does_not_depend_on_the_order_of_encoders() -> None:
    host = tiny_host("sdxl")
    turned = dict(reversed(host.encoders.items()))
    path = EpsPath(host.noise_path.alpha_bar)
    assert fingerprint_of(host.sites, 40, turned, path, 4) == host.fingerprint
