"""The two LoRA files of the workflows: plain kohya LoRAs of TinyWorld, trained by a plain loop.

They stand for LoRAs that come from anywhere: no handle, no mask, a trigger word in the caption.
Run it with the pack's own Python; it takes minutes on a CPU.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file

from conceptloom.host.diffusers import DiffusersHost
from conceptloom.host.ports import Role
from conceptloom.tinyworld.concepts import concept_scene
from conceptloom.tinyworld.shapes import BACKGROUNDS
from conceptloom.training.adapters import LowRankWeight

LORAS = Path(__file__).resolve().parent.parent / "workflows" / "loras"
# file -> object of TinyWorld, trigger word, words that the base model knows
SUBJECTS = {
    "bullseye-tinyworld": ("bullseye", "bullseye", "blue circle"),
    "split-tinyworld": ("split", "split", "green square"),
}
RANK, STEPS, BATCH, RATE = 4, 400, 4, 2e-3


def trained(host: DiffusersHost, thing: str, trigger: str, words: str) -> dict[str, torch.Tensor]:
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
        for _ in range(STEPS):
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


def main() -> None:
    torch.set_num_threads(1)
    LORAS.mkdir(exist_ok=True)
    host = DiffusersHost.tinyworld()
    for name, (thing, trigger, words) in SUBJECTS.items():
        tags = {"pictures": {f"{trigger} {words}": len(BACKGROUNDS)}}
        metadata = {
            "modelspec.trigger_phrase": trigger,
            "ss_tag_frequency": json.dumps(tags),
            "ss_network_module": "networks.lora",
            "ss_network_dim": str(RANK),
        }
        tensors = {k: t.contiguous() for k, t in trained(host, thing, trigger, words).items()}
        save_file(tensors, LORAS / f"{name}.safetensors", metadata)


if __name__ == "__main__":
    main()
