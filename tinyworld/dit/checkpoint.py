"""One file for a tiny transformer: its networks in ComfyUI's key layout, their sizes beside them.

The autoencoder is the bundled one; a checkpoint tells whose latents it was trained on.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ...errors import ModelError
from ..autoencoder import Autoencoder, read_autoencoder
from ..checkpoint import write_float16
from . import keys
from .networks import build_adapter, build_text_encoder, build_transformer
from .sizes import DitConfig
from .tokens import QWEN_IDS, T5_IDS, Rows, qwen_tokenizer, t5_tokenizer

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler
    from transformers import Qwen3Model

FORMAT, FORMAT_VERSION = "conceptloom.tinyworld.dit", 1
HERE = Path(__file__).parent
CHECKPOINTS = {family: HERE / f"{family}.safetensors" for family in ("anima", "zimage")}
TITLES = {"anima": "TinyWorld Anima", "zimage": "TinyWorld Z-Image"}


@dataclass(frozen=True, kw_only=True)
class DitModules:
    """The model in diffusers' and transformers' own classes, float32, frozen."""

    transformer: Any  # CosmosTransformer3DModel or ZImageTransformer2DModel
    adapter: Any  # AnimaTextConditioner, or None
    text_encoder: Qwen3Model
    vae: AutoencoderKL
    tokenizer: Any  # Qwen's
    t5_tokenizer: Any  # or None
    scheduler: FlowMatchEulerDiscreteScheduler
    config: DitConfig


@dataclass(frozen=True, kw_only=True)
class DitFile:
    """A checkpoint as it lies on disk.

    Attributes:
        weights:     ComfyUI's names -> float16 tensors. Token tables hold the stored rows only.
        qwen, t5:    which row an id has; Z-Image has no T5.
        training:    figures of the training run; free form.
        autoencoder: fingerprint of the autoencoder of its latents.
    """

    weights: dict[str, Tensor]
    config: DitConfig
    qwen: Rows
    t5: Rows | None
    training: dict[str, Any]
    autoencoder: str

    def full_weights(self) -> dict[str, Tensor]:
        """The weights with whole token tables, and with the layer that nobody reads."""
        weights = dict(self.weights)
        tables = [(keys.TEXT[self.config.family] + keys.TEXT_TABLE, self.qwen)]
        if self.t5 is not None:
            tables.append((keys.ADAPTER + keys.T5_TABLE, self.t5))
        for name, rows in tables:
            weights[name] = weights[name][rows.of_all()]
        return weights


def read_dit(path: Path) -> DitFile:
    """Read a checkpoint.

    Raises:
        ModelError: the file is missing, of another kind, or of a newer version.
    """
    from safetensors import safe_open

    if not path.is_file():
        raise ModelError(_missing(path))
    with safe_open(str(path), framework="pt") as file:
        metadata = file.metadata() or {}
        if metadata.get("format") != FORMAT:
            raise ModelError(f"{path.name} is not a TinyWorld transformer.")
        if int(metadata["format_version"]) > FORMAT_VERSION:
            raise ModelError(f"{path.name} was written by a newer version; update ConceptLoom.")
        weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    tokens = json.loads(metadata["tokens"])
    unknown: int = tokens["unknown"]
    return DitFile(
        weights=weights,
        config=DitConfig.from_dict(json.loads(metadata["config"])),
        qwen=Rows(tokens["qwen"], unknown, QWEN_IDS),
        t5=Rows(tokens["t5"], unknown, T5_IDS) if tokens["t5"] else None,
        training=json.loads(metadata["training"]),
        autoencoder=metadata["autoencoder"],
    )


def _missing(path: Path) -> str:
    for family, bundled in CHECKPOINTS.items():
        if path == bundled:
            return (
                f"{TITLES[family]} does not come with this version of ConceptLoom: its weights "
                "are still in training. Use TinyWorld's Stable Diffusion model, or train it with "
                f"python -m conceptloom.tinyworld.recipe.train --family {family}."
            )
    return f"There is no file {path}."


def write_dit(file: DitFile, path: Path) -> None:
    """Write a checkpoint in float16 in one atomic step."""
    config = file.config
    tokens = {
        "unknown": file.qwen.unknown,
        "qwen": file.qwen.ids,
        "t5": [] if file.t5 is None else file.t5.ids,
    }
    metadata = {
        "format": FORMAT,
        "format_version": str(FORMAT_VERSION),
        "config": json.dumps(config.to_dict()),
        "diffusers": json.dumps(config.diffusers_dict()),
        "comfyui": json.dumps(config.comfyui_dict()),
        "tokens": json.dumps(tokens),
        "training": json.dumps(file.training),
        "autoencoder": file.autoencoder,
    }
    write_float16(file.weights, metadata, path)


def pack(
    config: DitConfig,
    transformer: Any,
    text_encoder: Qwen3Model,
    adapter: Any,
    *,
    qwen: Rows,
    t5: Rows | None,
    training: dict[str, Any],
    autoencoder: str,
) -> DitFile:
    """Networks with compact token tables as a checkpoint."""
    text = {k: v for k, v in text_encoder.state_dict().items() if not _unread(k, config)}
    named = keys.transformer_to_comfyui(transformer.state_dict(), config.family)
    weights = {keys.TRANSFORMER + k: v for k, v in named.items()}
    weights.update({keys.TEXT[config.family] + k: v for k, v in text.items()})
    if adapter is not None:
        weights.update({keys.ADAPTER + k: v for k, v in adapter.state_dict().items()})
    return DitFile(
        weights={k: v.detach().cpu() for k, v in weights.items()},
        config=config,
        qwen=qwen,
        t5=t5,
        training=training,
        autoencoder=autoencoder,
    )


def _unread(name: str, config: DitConfig) -> bool:
    """Whether a weight lies behind the layer whose output is read."""
    last = f"layers.{config.text_layers}."
    return config.family == "zimage" and (name == "norm.weight" or name.startswith(last))


def unread_weights(file: DitFile) -> dict[str, Tensor]:
    """Neutral weights for what `pack` leaves out, under the text encoder's names."""
    if file.config.family != "zimage":
        return {}
    first, last = "layers.0.", f"layers.{file.config.text_layers}."
    text = keys.part_of(file.weights, keys.TEXT[file.config.family])
    layer = {k.replace(first, last): v for k, v in text.items() if k.startswith(first)}
    named = {**layer, "norm.weight": text["layers.0.input_layernorm.weight"]}
    return {name: torch.full_like(tensor, tensor.ndim == 1) for name, tensor in named.items()}


def checked_autoencoder(file: DitFile) -> Autoencoder:
    """The bundled autoencoder, if the checkpoint was trained on its latents.

    Raises:
        ModelError: it was not.
    """
    autoencoder = read_autoencoder()
    if autoencoder.fingerprint != file.autoencoder:
        raise ModelError(
            f"This {TITLES[file.config.family]} was trained on another autoencoder "
            f"({file.autoencoder}) than the bundled one ({autoencoder.fingerprint}); retrain it."
        )
    return autoencoder


def unpack(file: DitFile) -> DitModules:
    """The networks of a checkpoint in diffusers' and transformers' classes."""
    from diffusers import FlowMatchEulerDiscreteScheduler

    config = file.config
    weights = {k: v.float() for k, v in file.full_weights().items()}
    inner = keys.part_of(weights, keys.TRANSFORMER)
    adapter = None
    if file.t5 is not None:
        adapter = build_adapter(config, T5_IDS)
        adapter.load_state_dict(keys.part_of(weights, keys.ADAPTER))
        adapter.eval().requires_grad_(False)
        inner = {k: v for k, v in inner.items() if keys.TRANSFORMER + k not in _of_adapter(weights)}
    transformer = build_transformer(config)
    transformer.load_state_dict(keys.transformer_from_comfyui(inner, config.family))
    text = build_text_encoder(config, QWEN_IDS)
    text.load_state_dict(
        {**keys.part_of(weights, keys.TEXT[config.family]), **unread_weights(file)}
    )
    return DitModules(
        transformer=transformer.eval().requires_grad_(False),
        adapter=adapter,
        text_encoder=text.eval().requires_grad_(False),
        vae=checked_autoencoder(file).network(),
        tokenizer=qwen_tokenizer(),
        t5_tokenizer=None if adapter is None else t5_tokenizer(),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=config.shift),
        config=config,
    )


def _of_adapter(weights: dict[str, Tensor]) -> set[str]:
    return {name for name in weights if name.startswith(keys.ADAPTER)}


def load_dit(family: str, path: Path | None = None) -> DitModules:
    """A bundled transformer, ready to use: diffusers' classes, float32, frozen.

    Raises:
        ModelError: its weights are not there.
    """
    return unpack(read_dit(path or CHECKPOINTS[family]))
