"""A random scene, and what our recipe of Break-A-Scene draws for a step, for others to use too."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from conceptloom.methods.break_a_scene import BreakASceneConfig
from conceptloom.methods.break_a_scene.union_sampling import draw_samples
from conceptloom.scenes.scene import ConceptScene, make_scene
from conceptloom.training.loop import step_generator

NAMES, WORDS = ("first-one", "second-one"), ("mug", "cat")
PREFIX, PRIOR_PROMPT = BreakASceneConfig().prompt_prefix, BreakASceneConfig().class_images.prompt


@dataclass(frozen=True, slots=True)
class Draw:
    """All that is random in one step."""

    names: tuple[str, ...]
    mirrored: bool
    noise: Tensor
    timestep: Tensor
    class_noise: Tensor
    class_timestep: Tensor


def make_pictures(pixels: int) -> tuple[Tensor, Tensor, Tensor]:
    """Picture [H, W, 3], masks [2, H, W], and a class picture [H, W, 3]."""
    generator = torch.Generator().manual_seed(1)
    image, class_image = torch.rand(2, pixels, pixels, 3, generator=generator)
    masks = torch.zeros(2, pixels, pixels)
    masks[0, pixels // 8 : pixels // 2, pixels // 8 : pixels // 2] = 1
    masks[1, pixels // 3 : -pixels // 8, pixels // 2 : -pixels // 8] = 1
    return image, masks, class_image


def scene_of(image: Tensor, masks: Tensor) -> ConceptScene:
    """A scene of the first concepts, as many as there are masks [n, H, W]."""
    names = NAMES[: len(masks)]
    named = {name: [mask] for name, mask in zip(names, masks, strict=True)}
    return make_scene([image], named, dict(zip(names, WORDS, strict=False)))


def prompt_of(names: tuple[str, ...]) -> str:
    return PREFIX + " and ".join(f"<{name}>" for name in names)


def draw_for(step: int, scene: ConceptScene, size: tuple[int, ...], device: str) -> Draw:
    """What `BreakAScene.losses` draws in this step, in its order."""
    config, generator = BreakASceneConfig(), step_generator(0, step)
    (sample,) = draw_samples(scene, config, 1, generator)
    noise, timestep = _noised(size, generator)
    torch.randint(1, (1,), generator=generator)  # which class picture
    class_noise, class_timestep = _noised(size, generator)
    tensors = (noise, timestep, class_noise, class_timestep)
    return Draw(sample.names, sample.mirrored, *(t.to(device) for t in tensors))


def _noised(size: tuple[int, ...], generator: torch.Generator) -> tuple[Tensor, Tensor]:
    noise = torch.randn(1, *size, generator=generator)
    return noise, torch.randint(1000, (1,), generator=generator)
