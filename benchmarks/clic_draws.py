"""What CLiC learns in the benchmark of its step, and what our recipe draws for one."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from draws import NAMES, WORDS, make_pictures, scene_of
from torch import Tensor

from conceptloom.methods.clic import OFFICIAL
from conceptloom.rng import bernoulli, randint
from conceptloom.scenes.scene import ConceptScene
from conceptloom.training.loop import step_generator

NAME, WORD = NAMES[0], WORDS[0]
# Colours stay as they are: the others would have to draw the very same brightness.
SAME_FOR_ALL = {"object_word": WORDS[1], "brightness": 0.0}
CONFIG = replace(OFFICIAL, **SAME_FOR_ALL)


@dataclass(frozen=True, slots=True)
class DetailDraw:
    """All that is random in one step; both branches have the same noise and timestep."""

    mirrored: bool
    roi_prompt: str
    noise: Tensor
    timestep: Tensor


def make_detail(pixels: int) -> tuple[Tensor, Tensor]:
    """Picture [H, W, 3] and the mask [H, W] of its detail."""
    image, masks, _ = make_pictures(pixels)
    return image, masks[0]


def detail_scene(image: Tensor, mask: Tensor) -> ConceptScene:
    return scene_of(image, mask[None])


def draw_detail(step: int, size: tuple[int, ...], device: str) -> DetailDraw:
    """What `CLiC.losses` draws in this step, in its order."""
    generator = step_generator(0, step)
    randint(1, generator)  # which picture
    mirrored = bernoulli(CONFIG.flip, generator)
    randint(1, generator)  # which of its copies
    randint(1, generator)  # which concept
    prompts = CONFIG.roi_prompts_of(NAME)
    roi_prompt = prompts[randint(len(prompts), generator)]
    noise = torch.randn(1, *size, generator=generator)
    timestep = torch.randint(1000, (1,), generator=generator)
    return DetailDraw(mirrored, roi_prompt, noise.to(device), timestep.to(device))
