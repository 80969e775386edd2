"""The base model of a benchmark: random weights of several structures and sizes, or a checkpoint.

The same options everywhere: --preset, --checkpoint, --layout, --device, --dtype. A preset is a
random model with the structure of Stable Diffusion, or TinyWorld; a checkpoint is a real model from
the disk. Nothing is downloaded.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch

from conceptloom.cli.models import TINYWORLD, open_host
from conceptloom.cli.options import Precision
from conceptloom.host.diffusers import DiffusersHost
from conceptloom.host.diffusers.prompts import TextEncoder

PAD, START, END = "!", "<|startoftext|>", "<|endoftext|>"
WORDS = [PAD, START, END, "a", "photo", "of", "and", "at", "the", "beach", "mug", "cat"]
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True, kw_only=True, slots=True)
class Preset:
    """Sizes of a model; `texts` are (name, width, layers, heads) of its text encoders."""

    channels: tuple[int, ...]
    heads: int | tuple[int, ...]
    texts: tuple[tuple[str, int, int, int], ...]
    vae_channels: tuple[int, ...]
    vocabulary: int
    latent: int = 64
    depths: tuple[int, ...] | int = 1
    first_attends: bool = True  # SDXL's first level has no attention
    linear_projections: bool = False  # in and out of transformer blocks, as SD2 and SDXL have them
    remark: str = ""  # what to know when reading the figures

    @property
    def pixels(self) -> int:
        return self.latent * 2 ** (len(self.vae_channels) - 1)


_CLIP_L, _CLIP_G = ("clip_l", 768, 12, 12), ("clip_g", 1280, 32, 20)
_CLIP_H = ("clip_h", 1024, 23, 16)  # without its last layer, as diffusers keeps it
_SD_VAE = (128, 256, 512, 512)
PRESETS = {
    "tiny": Preset(
        channels=(32, 32, 64, 64),
        heads=2,
        texts=(("clip_l", 64, 2, 2),),
        vae_channels=(8, 8, 16, 16),
        vocabulary=1000,
    ),
    "35m": Preset(
        channels=(64, 128, 256, 256),
        heads=8,
        texts=(("clip_l", 256, 4, 4),),
        vae_channels=(32, 64, 128, 128),
        vocabulary=1000,
        remark=(
            "This UNet has the eight heads of Stable Diffusion 1 at a fifth of its width: heads of "
            "8 channels in place of 40, whose attention is dear on a CPU."
        ),
    ),
    "sd15": Preset(
        channels=(320, 640, 1280, 1280),
        heads=8,
        texts=(_CLIP_L,),
        vae_channels=_SD_VAE,
        vocabulary=49408,
    ),
    "sd21": Preset(
        channels=(320, 640, 1280, 1280),
        heads=(5, 10, 20, 20),
        texts=(_CLIP_H,),
        vae_channels=_SD_VAE,
        vocabulary=49408,
        linear_projections=True,
    ),
    "sdxl_blocks": Preset(
        channels=(320, 640, 1280),
        heads=(5, 10, 20),
        texts=(("clip_l", 768, 1, 12), ("clip_g", 1280, 1, 20)),
        vae_channels=(32, 32, 32, 32),
        vocabulary=1000,
        latent=16,
        depths=(1, 1, 2),
        first_attends=False,
        linear_projections=True,
        remark="SDXL's widths with a few of its blocks: transformers of 1 and 2 layers for 2 and "
        "10, one layer in each text encoder.",
    ),
    "sdxl": Preset(
        channels=(320, 640, 1280),
        heads=(5, 10, 20),
        texts=(_CLIP_L, _CLIP_G),
        vae_channels=_SD_VAE,
        vocabulary=49408,
        latent=128,
        depths=(1, 2, 10),
        first_attends=False,
        linear_projections=True,
    ),
}


class WordTokenizer:
    """One token a word."""

    bos_token_id, eos_token_id, pad_token_id = 1, 2, 0

    def __call__(self, text: str, add_special_tokens: bool = True) -> dict[str, list[int]]:
        known = [WORDS.index(word) if word in WORDS else -1 for word in text.split()]
        return {"input_ids": [i for n in known for i in ([n] if n >= 0 else [0, 0])]}


def make_host(preset: Preset, device: str, dtype: torch.dtype, seed: int = 0) -> DiffusersHost:
    """The same random model on every call."""
    from diffusers import DDPMScheduler

    torch.manual_seed(seed)
    with torch.device(device):  # a GPU draws billions of weights at once
        unet, vae, encoders = networks_of(preset)
    for module in (unet, vae, *(e.model for e in encoders)):
        module.to(device, dtype)
    scheduler = DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    return DiffusersHost(unet=unet.train(), vae=vae, encoders=encoders, scheduler=scheduler)


def networks_of(preset: Preset) -> tuple[Any, Any, list[TextEncoder]]:
    """UNet, VAE and text encoders, on torch's default device."""
    encoders = [_text_encoder(preset, *text) for text in preset.texts]
    return _unet(preset), _vae(preset), encoders


def _unet(preset: Preset) -> Any:
    from diffusers import UNet2DConditionModel

    attends = [preset.first_attends, *[True] * (len(preset.channels) - 1)]
    if preset.first_attends:
        attends[-1] = False
    more: dict[str, Any] = {}
    if len(preset.texts) == 2:
        more = {
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 256,
            "projection_class_embeddings_input_dim": preset.texts[1][1] + 6 * 256,
        }
    return UNet2DConditionModel(
        sample_size=preset.latent,
        block_out_channels=preset.channels,
        down_block_types=tuple("CrossAttnDownBlock2D" if a else "DownBlock2D" for a in attends),
        up_block_types=tuple("CrossAttnUpBlock2D" if a else "UpBlock2D" for a in attends[::-1]),
        layers_per_block=2,
        attention_head_dim=preset.heads,
        transformer_layers_per_block=preset.depths,
        use_linear_projection=preset.linear_projections,
        cross_attention_dim=sum(width for _, width, _, _ in preset.texts),
        **more,
    )


def _vae(preset: Preset) -> Any:
    return vae_of(preset.vae_channels)


def vae_of(channels: tuple[int, ...], latent_channels: int = 4, scaling: float = 0.18215) -> Any:
    """A random autoencoder, on torch's default device."""
    from diffusers import AutoencoderKL

    levels = len(channels)
    return AutoencoderKL(
        block_out_channels=channels,
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        layers_per_block=2,
        norm_num_groups=min(32, channels[0]),
        latent_channels=latent_channels,
        scaling_factor=scaling,
    ).requires_grad_(False)


def _text_encoder(preset: Preset, name: str, width: int, layers: int, heads: int) -> TextEncoder:
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    config = CLIPTextConfig(
        vocab_size=preset.vocabulary,
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        projection_dim=width,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    pair = len(preset.texts) == 2
    projected = pair and name == "clip_g"
    model = (CLIPTextModelWithProjection if projected else CLIPTextModel)(config)
    return TextEncoder(name, model.train(), WordTokenizer(), penultimate=pair, projected=projected)


def add_model_options(
    parser: argparse.ArgumentParser, preset: str = "", dtypes: Sequence[str] = ("fp32", "bf16")
) -> None:
    """What a benchmark measures, and where; `open_model` opens it.

    Args:
        preset: the default one; "" leaves --preset to the benchmark.
    """
    if preset:
        parser.add_argument("--preset", default=preset, choices=[*PRESETS, TINYWORLD])
    parser.add_argument(
        "--checkpoint", type=Path, help="a real model in place of the preset: folder or file"
    )
    parser.add_argument("--layout", type=Path, help="for a single file: see `conceptloom train`")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--dtype", default="fp32", choices=dtypes)


def open_model(
    options: argparse.Namespace, dtype: str = "", preset: str = "", seed: int = 0
) -> DiffusersHost:
    """The model that was asked for.

    Args:
        dtype: instead of the option's.
        preset: instead of the option's.
        seed: of a preset's random weights.
    """
    name, precision = preset or options.preset, dtype or options.dtype
    if options.checkpoint is None and name != TINYWORLD:
        return make_host(PRESETS[name], options.device, DTYPES[precision], seed)
    model = TINYWORLD if options.checkpoint is None else str(options.checkpoint)
    host = open_host(
        model, layout=options.layout, device=options.device, precision=Precision(precision)
    )
    return cast(DiffusersHost, host)


def latent_side(host: DiffusersHost) -> int:
    """Cells of a side of the latents that the model was made for."""
    return int(host.unet.config.sample_size)


def picture_side(host: DiffusersHost) -> int:
    """The same in pixels."""
    return latent_side(host) * host.pixels_per_latent


def describe_model(options: argparse.Namespace, host: DiffusersHost, preset: str = "") -> str:
    """What was measured, for a page."""
    name = f"Preset `{preset or options.preset}`, random weights"
    if options.checkpoint is not None:
        name = f"Checkpoint `{options.checkpoint.name}`"
    elif (preset or options.preset) == TINYWORLD:
        name = "TinyWorld"
    networks = (host.unet, host.vae, *(encoder.model for encoder in host._encoders))
    unet, vae, *texts = (sum(p.numel() for p in n.parameters()) / 1e6 for n in networks)
    widths = ", ".join(map(str, host.unet.config.block_out_channels))
    encoders = " + ".join(f"{count:.4g}" for count in texts)
    return (
        f"{name}: UNet {unet:.4g} M parameters (widths {widths}), text encoder {encoders} M, VAE "
        f"{vae:.4g} M"
    )


def remark_on(options: argparse.Namespace) -> str:
    """What to know when reading the figures of a preset."""
    if options.checkpoint is not None or options.preset == TINYWORLD:
        return ""
    return PRESETS[options.preset].remark
