"""The LoRA files of the workflows: plain kohya LoRAs of TinyWorld, trained by a plain loop.

They stand for LoRAs that come from anywhere: no handle, no mask, a trigger word in the caption.
"""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file

from conceptloom.host.diffusers import DiffusersHost
from conceptloom.host.ports import Role
from conceptloom.tinyworld.concepts import concept_scene
from conceptloom.tinyworld.shapes import BACKGROUNDS
from conceptloom.training.adapters import LowRankWeight

RANK, STEPS, BATCH, RATE = 4, 300, 4, 2e-3


def trained(
    host: DiffusersHost, thing: str, trigger: str, words: str, steps: int
) -> dict[str, torch.Tensor]:
    """Factors by kohya's names, float16."""
    generator = torch.Generator().manual_seed(0)
    scenes = [concept_scene([thing], i, background) for i, background in enumerate(BACKGROUNDS)]
    pixels = torch.stack([torch.as_tensor(scene.image).float() / 255 for scene in scenes])
    clean = host.encode_image(pixels)
    prompts = [
        host.encode_prompt(f"a photo of a {trigger} {words} {where}")
        for where in BACKGROUNDS.values()
    ]
    parts = {
        site.weight: LowRankWeight(host.weight(site.weight).shape, RANK, generator)
        for site in host.sites.layers
        if Role.LINEAR in site.roles
    }
    factors = [tensor for part in parts.values() for tensor in part.named().values()]
    optimiser = torch.optim.AdamW(factors, RATE)
    edits = {name: part.as_edit() for name, part in parts.items()}
    with host.edited(edits, trainable=True):
        for _ in range(steps):
            rows = torch.randint(len(prompts), (BATCH,), generator=generator)
            at = torch.randint(0, 1000, (BATCH,), generator=generator)
            noise = torch.randn(clean[rows].shape, generator=generator)
            noisy = host.noise_path.add_noise(clean[rows], noise, at)
            output = host.predict(noisy, at, [prompts[row] for row in rows.tolist()])
            loss = (output - host.noise_path.target(clean[rows], noise, at)).square().mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    found: dict[str, torch.Tensor] = {}
    for name, part in parts.items():
        path = name.removeprefix("unet.").removesuffix(".weight").replace(".", "_")
        up, down = part.up.detach(), part.down.detach()
        ones = (1,) * (down.ndim - 2)
        found[f"lora_unet_{path}.lora_up.weight"] = up.reshape(*up.shape, *ones).half()
        found[f"lora_unet_{path}.lora_down.weight"] = down.half()
        found[f"lora_unet_{path}.alpha"] = torch.tensor(float(RANK)).half()
    return found


def encoded_png(picture: np.ndarray) -> bytes:
    """A picture [H, W, 3] of bytes as a file."""
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "PNG")
    return file.getvalue()


def write_lora(
    host: DiffusersHost, path: Path, thing: str, trigger: str, words: str, part: int = 1
) -> None:
    """Train the LoRA of an object of TinyWorld.

    Args:
        words: that the base model knows for it.
        part: one step of so many is taken.
    """
    shown = encoded_png(concept_scene([thing]).image)
    tags = {"pictures": {f"{trigger} {words}": len(BACKGROUNDS)}}
    metadata = {
        "modelspec.trigger_phrase": trigger,
        "modelspec.thumbnail": f"data:image/png;base64,{base64.b64encode(shown).decode()}",
        "ss_tag_frequency": json.dumps(tags),
        "ss_network_module": "networks.lora",
        "ss_network_dim": str(RANK),
    }
    found = trained(host, thing, trigger, words, max(1, STEPS // part))
    path.parent.mkdir(exist_ok=True)
    save_file({name: tensor.contiguous() for name, tensor in found.items()}, path, metadata)
