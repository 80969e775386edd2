"""Altered copies of a picture: brighter or darker, mirrored, nearer or farther.

The official code augments its picture in each step (learning.py:166, 244-264). Here some copies are
created and encoded before the first step, and a step selects one of them: the VAE never runs next
to the UNet, and a resumed run has the same copies.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ...concepts.handles import generator_for
from ...rng import bernoulli, randint
from ...scenes.scene import SceneImage
from .config import FAR, NEAR, CLiCConfig

FAR_CHANCE = 0.33  # of a smaller copy, else a larger one (learning.py:253-257)
FAR_SCALES, NEAR_SCALES = (1 / 3, 1.0), (1.125, 1.5)  # of the picture's side
CALLED_FAR = 0.6  # below it the prompt says so


@dataclass(frozen=True, slots=True)
class View:
    """One altered copy.

    Attributes:
        image: [H, W, 3], 0..1; grey around a smaller copy.
        masks: name -> [H, W], 0..1.
        valid: [H, W], 1 where the picture is, 0 on the grey.
        prefix: before the prompt: "", "zoomed in " and the like.
    """

    image: Tensor
    masks: Mapping[str, Tensor]
    valid: Tensor
    prefix: str = ""


def views_of(picture: SceneImage, config: CLiCConfig, number: int, mirrored: bool) -> list[View]:
    """The altered copies of the `number`-th picture, the same for the same seed."""
    image, masks = picture.image, dict(picture.masks)
    if mirrored:
        image, masks = image.flip(1), {name: mask.flip(1) for name, mask in masks.items()}
    whole = View(image, masks, torch.ones(image.shape[:2]))
    if not _alters(config):
        return [whole]
    generator = generator_for(config.seed, f"views of picture {number}, mirrored {mirrored}")
    return [_altered(whole, config, generator) for _ in range(config.views)]


def n_views(config: CLiCConfig) -> int:
    """The number of views of `views_of`."""
    return config.views if _alters(config) else 1


def _alters(config: CLiCConfig) -> bool:
    return bool(config.brightness or config.random_scale)


def _altered(view: View, config: CLiCConfig, generator: torch.Generator) -> View:
    factor = _between(1 - config.brightness, 1 + config.brightness, generator)
    bright = View((view.image * factor).clamp(0, 1), view.masks, view.valid)
    return _scaled(bright, generator) if config.random_scale else bright


def _scaled(view: View, generator: torch.Generator) -> View:
    """A smaller copy on grey, or a piece of a larger one; at a random place."""
    is_far = bernoulli(FAR_CHANCE, generator)
    scale = _between(*(FAR_SCALES if is_far else NEAR_SCALES), generator)
    height, width = view.image.shape[:2]
    inner = max(1, round(height * scale)), max(1, round(width * scale))
    top, left = (
        randint(abs(n - i) + 1, generator) for n, i in zip((height, width), inner, strict=True)
    )
    words = FAR if scale < CALLED_FAR else NEAR if scale > 1 else ("",)

    def placed(plane: Tensor, ground: float) -> Tensor:  # [H, W] -> [H, W]
        resized = F.interpolate(plane[None, None], inner, mode="bilinear", antialias=True)[0, 0]
        if scale > 1:
            return resized[top : top + height, left : left + width]
        canvas = torch.full_like(plane, ground)
        canvas[top : top + inner[0], left : left + inner[1]] = resized.clamp(0, 1)
        return canvas

    return View(
        torch.stack([placed(channel, 0.5) for channel in view.image.unbind(-1)], dim=-1),
        {name: placed(mask, 0.0) for name, mask in view.masks.items()},
        placed(view.valid, 0.0),
        words[randint(len(words), generator)],
    )


def _between(low: float, high: float, generator: torch.Generator) -> float:
    return low + (high - low) * float(torch.rand((), generator=generator))
