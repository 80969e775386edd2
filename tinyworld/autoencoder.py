"""TinyWorld's autoencoder in a file of its own: the tiny transformers share it.

`python -m conceptloom.tinyworld.autoencoder CHECKPOINT` takes it out of a checkpoint.
"""

from __future__ import annotations

import hashlib
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from . import keys
from .checkpoint import read_checkpoint, write_float16
from .model import ModelConfig, build_vae

if TYPE_CHECKING:
    from diffusers import AutoencoderKL

FORMAT = "conceptloom.tinyworld.autoencoder"
AUTOENCODER = Path(__file__).parent / "dit" / "autoencoder.safetensors"


@dataclass(frozen=True, kw_only=True)
class Autoencoder:
    """The file as it lies on disk.

    Attributes:
        weights: SD1's names without a prefix -> float16 tensors.
        config:  sizes; those of a UNet in it mean nothing here.
        figures: of its training.
    """

    weights: dict[str, Tensor]
    config: ModelConfig
    figures: dict[str, Any]

    @property
    def fingerprint(self) -> str:
        """What tells its latents from those of another autoencoder."""
        digest = hashlib.sha256()
        for name in sorted(self.weights):
            values = self.weights[name].half().contiguous().view(torch.int16).numpy()
            digest.update(name.encode() + values.tobytes())
        return digest.hexdigest()[:16]

    def network(self) -> AutoencoderKL:
        """In diffusers' class, float32, frozen."""
        named = {keys.VAE + name: tensor.float() for name, tensor in self.weights.items()}
        vae = build_vae(self.config)
        vae.load_state_dict(keys.vae_from_sd1(named, self.config))
        return vae.eval().requires_grad_(False)


def read_autoencoder(path: Path = AUTOENCODER) -> Autoencoder:
    """Read the file; ValueError when it is another kind."""
    from safetensors import safe_open

    with safe_open(str(path), framework="pt") as file:
        metadata = file.metadata() or {}
        if metadata.get("format") != FORMAT:
            raise ValueError(f"{path.name} is not TinyWorld's autoencoder; restore it")
        weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    return Autoencoder(
        weights=weights,
        config=ModelConfig.from_dict(json.loads(metadata["config"])),
        figures=json.loads(metadata["training"]),
    )


def write_autoencoder(autoencoder: Autoencoder, path: Path = AUTOENCODER) -> None:
    """Write the file in float16 in one atomic step."""
    metadata = {
        "format": FORMAT,
        "config": json.dumps(autoencoder.config.to_dict()),
        "training": json.dumps(autoencoder.figures),
    }
    write_float16(autoencoder.weights, metadata, path)


def autoencoder_of(checkpoint: Path) -> Autoencoder:
    """The autoencoder inside a checkpoint."""
    file = read_checkpoint(checkpoint)
    figures = {k: v for k, v in file.training.items() if k.startswith("autoencoder_")}
    weights = {k.removeprefix(keys.VAE): v for k, v in file.weights.items() if keys.VAE in k}
    return Autoencoder(weights=weights, config=file.config, figures=figures)


if __name__ == "__main__":
    write_autoencoder(autoencoder_of(Path(sys.argv[1])))
