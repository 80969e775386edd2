"""A recorded step of CLiC's own program, and our recipe on its draws."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from conceptloom.host.diffusers.sites import canonical_unet_names
from conceptloom.methods.clic import (
    OFFICIAL,
    CLiC,
    CLiCConfig,
    as_break_a_scene_loss,
    as_custom_diffusion,
    dataset,
    recipe,
)
from conceptloom.methods.clic.dataset import ViewSample
from conceptloom.methods.clic.views import View
from conceptloom.scenes.scene import make_scene

from .official import LATENT_CHANNELS, LATENT_SCALE, Recording, WordTokenizer, tiny_host

SPECIAL = ("!", "<|startoftext|>", "<|endoftext|>")
WORDS = (
    *SPECIAL, "a", "photo", "of", "pattern", "on", "blank", "background", "style", "with", "bench",
    "ktn", "none",
)  # fmt: skip
NAME, ROI_PROMPT = "x", "<x>"  # the prompt that the program drew in "style", of its eight
CASES = {
    "style": OFFICIAL,
    "break": as_break_a_scene_loss(OFFICIAL),
    # its terms are not weighted there
    "content": replace(as_custom_diffusion(OFFICIAL), context_weight=1.0),
}
# In the program a picture passes through 8 bits after it was made brighter, and through float16.
ROUNDING = 0.04  # of latents, which reach 5


class RecordedVae(nn.Module):
    """The recorded latents, for pixels that would have given them."""

    def __init__(self, recording: Recording) -> None:
        super().__init__()
        self.config = SimpleNamespace(
            block_out_channels=(1,) * 4,
            scaling_factor=LATENT_SCALE,
            latent_channels=LATENT_CHANNELS,
        )
        self.place = nn.Parameter(torch.zeros(1), requires_grad=False)  # tells where it computes
        self.device, self.dtype = torch.device("cpu"), torch.float32
        self.mix = recording["mix"]
        self.latents = [recording["latent"]]
        if recording.case == "style":
            self.latents.append(recording["region_latent"])

    def encode(self, pixels: Tensor) -> Any:
        small = torch.nn.functional.avg_pool2d(pixels, 8)
        ours = torch.einsum("ck,bkhw->bchw", self.mix, small)
        apart = [float((ours - theirs).abs().max()) for theirs in self.latents]
        assert min(apart) < ROUNDING, apart
        return SimpleNamespace(
            latent_dist=SimpleNamespace(mean=self.latents[apart.index(min(apart))])
        )


def recorded_picture() -> tuple[Tensor, Tensor]:
    """The picture [512, 512, 3] and the mask [512, 512] that the program was given."""
    y, x = torch.meshgrid(torch.arange(512), torch.arange(512), indexing="ij")
    channels = [(x * (c + 2) // 3 + y * (3 - c) // 2 + 40 * c) % 256 for c in range(3)]
    mask = torch.zeros(512, 512)
    mask[101:333, 140:361] = 1
    mask[200:420, 300:402] = 1
    return torch.stack(channels, dim=-1).float() / 255, mask


def recorded_recipe(
    folder: Path, case: str, patched: pytest.MonkeyPatch, **changes: Any
) -> tuple[Recording, CLiC]:
    """Our recipe, which draws what the official program drew; nothing else of it is replaced."""
    recording = Recording(folder, case, "clic_step")
    factor = float(recording["brightness"])
    assert bool(recording["mirrored"])

    def views_of(picture: Any, config: CLiCConfig, number: int, mirrored: bool) -> list[View]:
        bright = (picture.image * factor).clamp(0, 1).flip(1)
        masks = {name: mask.flip(1) for name, mask in picture.masks.items()}
        return [View(bright, masks, torch.ones(512, 512))]

    prompt = f"a bench with <{NAME}> style"
    sample = ViewSample(0, True, 0, NAME, prompt, ROI_PROMPT)
    drawn = recording["noise"], recording["timesteps"]
    patched.setattr(dataset, "views_of", views_of)
    patched.setattr(recipe, "sample_noise", lambda *_: drawn)
    patched.setattr(dataset.SceneViews, "draw", lambda *_: sample)
    picture, mask = recorded_picture()
    scene = make_scene([picture], {NAME: [mask]}, {NAME: "ktn"})
    host = tiny_host(recording, RecordedVae(recording), WordTokenizer(WORDS, pad_token_id=2))
    config = replace(CASES[case], flip=1.0, object_word="bench", **changes)
    config = replace(config, weight_phase=replace(config.weight_phase, steps=1))
    return recording, CLiC(host, scene, config)


def our_gradients(learner: CLiC) -> dict[str, Tensor]:
    """Gradients by the names of the recording; the handle's is "row"."""
    paths = canonical_unet_names(learner.host.unet)
    ours = {}
    for name, parameter in learner.adapters.named().items():
        assert parameter.grad is not None, name
        ours[f"unet.{paths[name.removeprefix('adapter.').removesuffix('.full')]}"] = parameter.grad
    (row,) = learner.handles.parameters()
    assert row.grad is not None
    return {**ours, "row": row.grad}
