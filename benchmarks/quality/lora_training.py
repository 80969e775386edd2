"""LoRA files as other trainers write them, for the benchmark of localised LoRAs.

A plain loop over diffusers' modules, with nothing of this pack's training in it: hooks add
up(down(x)) to every linear layer of the transformers and of the text encoder, the caption holds a
trigger word and words that the base model knows, and the file has PEFT's names.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch
from harness.results import RUNS
from harness.store import kept_tensors, short_digest
from torch import Tensor, nn

from conceptloom.attention.local_lora import LocalConfig, LocalLora
from conceptloom.attention.local_setup import lora_for
from conceptloom.host.ports import Host
from conceptloom.tinyworld.checkpoint import CHECKPOINT, load_tinyworld
from conceptloom.tinyworld.concepts import concept_scene
from conceptloom.tinyworld.shapes import BACKGROUNDS

from .tasks import LoraTask

STORE = RUNS / "local_loras"


@dataclass(frozen=True, slots=True)
class Training:
    """How a LoRA is trained."""

    steps: int = 400
    batch_size: int = 4
    rank: int = 8
    rate: float = 1e-3
    text_rate: float = 3e-4  # of the text encoder, lower as usual


class _Factors(nn.Module):
    """up(down(x)) beside a linear layer; nothing at first."""

    def __init__(self, layer: nn.Linear, rank: int, generator: torch.Generator) -> None:
        super().__init__()
        down = torch.randn(rank, layer.in_features, generator=generator)
        self.down = nn.Parameter(down / rank)
        self.up = nn.Parameter(torch.zeros(layer.out_features, rank))

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs @ self.down.T @ self.up.T


def trained(task: LoraTask, training: Training, seed: int = 0) -> dict[str, Tensor]:
    """Factors by PEFT's names, of pictures of the member on every background."""
    world, generator = load_tinyworld(CHECKPOINT), torch.Generator().manual_seed(seed)
    for part in (world.unet, world.vae, world.text_encoder):
        part.requires_grad_(False)
    clean, ids = _data(world, task, seed)
    with ExitStack() as stack:
        of_unet = stack.enter_context(_beside(world.unet, training.rank, generator))
        of_text = stack.enter_context(_beside(world.text_encoder, training.rank, generator))
        rates = ((of_unet, training.rate), (of_text, training.text_rate))
        optimiser = torch.optim.AdamW(
            [{"params": _parameters(found), "lr": rate} for found, rate in rates]
        )
        for _ in range(training.steps):
            rows = torch.randint(len(clean), (training.batch_size,), generator=generator)
            loss = _loss(world, clean[rows], ids[rows], generator)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    return {
        f"{part}.{path}.lora_{letter}.weight": factor.detach().clone()
        for part, found in (("unet", of_unet), ("text_encoder", of_text))
        for path, one in found.items()
        for letter, factor in (("A", one.down), ("B", one.up))
    }


def _data(world: Any, task: LoraTask, seed: int) -> tuple[Tensor, Tensor]:
    """Latents [n, C, h, w] and token ids [n, 77], one of each background."""
    scenes = [concept_scene([task.member], 50 * seed + i, b) for i, b in enumerate(BACKGROUNDS)]
    pixels = torch.stack([torch.as_tensor(scene.image).float() for scene in scenes])
    with torch.no_grad():
        encoded = world.vae.encode(pixels.permute(0, 3, 1, 2) / 127.5 - 1).latent_dist.mean
    captions = [f"a photo of {task.told} {where}" for where in BACKGROUNDS.values()]
    ids = world.tokenizer(captions, padding="max_length", truncation=True, return_tensors="pt")
    return encoded * world.vae.config.scaling_factor, ids["input_ids"]


def _loss(world: Any, clean: Tensor, ids: Tensor, generator: torch.Generator) -> Tensor:
    """Mean square of what the network misses of its target; this world predicts v or noise."""
    noise = torch.randn(clean.shape, generator=generator)
    at = torch.randint(0, len(world.scheduler.alphas_cumprod), (len(clean),), generator=generator)
    noisy = world.scheduler.add_noise(clean, noise, at)
    is_velocity = world.scheduler.config.prediction_type == "v_prediction"
    target = world.scheduler.get_velocity(clean, noise, at) if is_velocity else noise
    output = world.unet(noisy, at, world.text_encoder(ids)[0]).sample
    return (output - target).square().mean()


@contextmanager
def _beside(
    network: Any, rank: int, generator: torch.Generator
) -> Iterator[dict[str, _Factors]]:  # fmt: skip
    """Factors beside every linear layer of a network's transformers, by its path."""
    layers = {
        path: layer
        for path, layer in network.named_modules()
        if isinstance(layer, nn.Linear) and ("transformer_blocks" in path or "encoder." in path)
    }
    found = {path: _Factors(layer, rank, generator) for path, layer in layers.items()}
    hooks = [
        layer.register_forward_hook(
            lambda _, inputs, output, own=found[path]: output + own(inputs[0])
        )
        for path, layer in layers.items()
    ]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


def _parameters(found: dict[str, _Factors]) -> list[nn.Parameter]:
    return [parameter for one in found.values() for parameter in one.parameters()]


def local_lora(
    host: Host, model: str, task: LoraTask, training: Training, config: LocalConfig
) -> LocalLora:
    """A LoRA from its file, or trained now, as it is localised.

    Args:
        model: digest of the base model.
    """
    key = repr([model, asdict(training), task.told])
    path = STORE / f"{task.member}-{short_digest(key)}.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = kept_tensors(path, key, lambda: trained(task, training))
    return LocalLora(
        file=lora_for(host, tensors, path.name), name=task.member, words=task.words,
        tokens=host.tokenize(task.words), config=config,
    )  # fmt: skip
