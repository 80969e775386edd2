"""The one file that ships: three networks in SD1's key layout, with their sizes in the metadata."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from . import keys
from .model import (
    CLIP_VOCABULARY,
    ModelConfig,
    build_scheduler,
    build_text_encoder,
    build_unet,
    build_vae,
)

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTokenizer

FORMAT, FORMAT_VERSION = "conceptloom.tinyworld", 1
CHECKPOINT = Path(__file__).parent / "tinyworld.safetensors"
TOKENIZER = Path(__file__).parent / "tokenizer"
TOKEN_TABLE = keys.TEXT + "embeddings.token_embedding.weight"


@dataclass(frozen=True, kw_only=True)
class TinyWorldModules:
    """The model in diffusers' and transformers' own classes, float32, in eval mode."""

    unet: UNet2DConditionModel
    text_encoder: CLIPTextModel
    vae: AutoencoderKL
    tokenizer: CLIPTokenizer
    scheduler: DDPMScheduler
    config: ModelConfig


@dataclass(frozen=True, kw_only=True)
class TinyWorldFile:
    """A checkpoint as it lies on disk.

    Attributes:
        weights:      SD1 names -> float16 tensors. The token table holds the stored rows only.
        config:       sizes of the networks.
        token_ids:    CLIP id of each stored row, in order.
        unknown_rows: how many further rows all other ids share, by id modulo this number.
        training:     figures of the training run; free form.
    """

    weights: dict[str, Tensor]
    config: ModelConfig
    token_ids: list[int]
    unknown_rows: int
    training: dict[str, Any]

    def full_weights(self) -> dict[str, Tensor]:
        """The weights with the token table at CLIP's full size, [49408, D]."""
        rows = row_of_token(self.token_ids, self.unknown_rows)
        return {**self.weights, TOKEN_TABLE: self.weights[TOKEN_TABLE][rows]}


def row_of_token(token_ids: list[int], unknown_rows: int) -> Tensor:
    """[49408] row of the stored table for every CLIP id; ids never trained share rows."""
    rows = len(token_ids) + torch.arange(CLIP_VOCABULARY) % unknown_rows
    rows[torch.tensor(token_ids)] = torch.arange(len(token_ids))
    return rows


def read_checkpoint(path: Path = CHECKPOINT) -> TinyWorldFile:
    """Read a checkpoint; ValueError when the file is another kind or a newer version."""
    from safetensors import safe_open

    with safe_open(str(path), framework="pt") as file:
        metadata = file.metadata() or {}
        if metadata.get("format") != FORMAT:
            raise ValueError(f"{path.name} is not a TinyWorld checkpoint; train one, or restore it")
        if int(metadata["format_version"]) > FORMAT_VERSION:
            raise ValueError(f"{path.name} was written by a newer version; update ConceptLoom")
        weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    return TinyWorldFile(
        weights=weights,
        config=ModelConfig.from_dict(json.loads(metadata["config"])),
        token_ids=json.loads(metadata["token_ids"]),
        unknown_rows=int(metadata["unknown_rows"]),
        training=json.loads(metadata["training"]),
    )


def write_float16(weights: Mapping[str, Tensor], metadata: dict[str, str], path: Path) -> None:
    """Write a safetensors file in one atomic step, its tensors in float16."""
    from safetensors.torch import save_file

    halved = {name: tensor.detach().half().contiguous() for name, tensor in weights.items()}
    temporary = path.with_suffix(".tmp")
    save_file(halved, str(temporary), metadata=metadata)
    os.replace(temporary, path)


def write_checkpoint(file: TinyWorldFile, path: Path = CHECKPOINT) -> None:
    """Write a checkpoint in float16 in one atomic step."""
    config = file.config
    metadata = {
        "format": FORMAT,
        "format_version": str(FORMAT_VERSION),
        "config": json.dumps(config.to_dict()),
        "diffusers": json.dumps(
            {"unet": config.unet_dict(), "vae": config.vae_dict(), "text": config.text_dict()}
        ),
        "ldm": json.dumps(config.ldm_dict()),
        "token_ids": json.dumps(file.token_ids),
        "unknown_rows": str(file.unknown_rows),
        "training": json.dumps(file.training),
    }
    write_float16(file.weights, metadata, path)


def pack(
    unet: UNet2DConditionModel,
    text_encoder: CLIPTextModel,
    vae: AutoencoderKL,
    config: ModelConfig,
    token_ids: list[int],
    unknown_rows: int,
    training: dict[str, Any],
) -> TinyWorldFile:
    """Trained networks as a checkpoint; `text_encoder` has the compact table of the stored rows."""
    weights = {
        **keys.unet_to_sd1(unet.state_dict(), config),
        **keys.text_to_sd1(text_encoder.state_dict()),
        **keys.vae_to_sd1(vae.state_dict(), config),
    }
    return TinyWorldFile(
        weights=weights,
        config=config,
        token_ids=token_ids,
        unknown_rows=unknown_rows,
        training=training,
    )


def unpack(file: TinyWorldFile) -> TinyWorldModules:
    """The networks of a checkpoint in diffusers' classes."""
    weights = {k: v.float() for k, v in file.full_weights().items()}
    unet, vae = build_unet(file.config), build_vae(file.config)
    text_encoder = build_text_encoder(file.config)
    unet.load_state_dict(keys.unet_from_sd1(weights, file.config))
    vae.load_state_dict(keys.vae_from_sd1(weights, file.config))
    prefix = "text_model." if hasattr(text_encoder, "text_model") else ""
    text_encoder.load_state_dict(keys.text_from_sd1(weights, prefix), strict=False)
    return TinyWorldModules(
        unet=unet.eval().requires_grad_(False),
        text_encoder=text_encoder.eval().requires_grad_(False),
        vae=vae.eval().requires_grad_(False),
        tokenizer=load_tokenizer(),
        scheduler=build_scheduler(file.config),
        config=file.config,
    )


def load_tokenizer() -> CLIPTokenizer:
    """CLIP's tokenizer with the reduced vocabulary; ids are CLIP's own."""
    from transformers import CLIPTokenizer

    return CLIPTokenizer.from_pretrained(str(TOKENIZER), local_files_only=True)


def load_tinyworld(path: Path = CHECKPOINT) -> TinyWorldModules:
    """The bundled model, ready to use: diffusers classes, float32, frozen.

    Latents are [B, config.latent_channels, H / config.downscale, W / config.downscale];
    `config.prediction_type` says what the UNet predicts.
    """
    return unpack(read_checkpoint(path))
