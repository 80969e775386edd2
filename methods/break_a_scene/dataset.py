"""Latents and masks of the scene, and the concepts of each step: union sampling."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...attention.site_selection import grid_at
from ...host.ports import Host, Progress, no_progress
from ...rng import bernoulli, randint
from ...scenes.masks import mask_on_grid
from ...scenes.scene import ConceptScene, SceneImage
from ...training.scene_recipe import PictureEncoder
from .config import BreakASceneConfig


@dataclass(frozen=True, slots=True)
class UnionSample:
    """One row of a batch."""

    image: int  # which picture of the scene
    mirrored: bool
    names: tuple[str, ...]  # the drawn concepts, in the order of the prompt

    def prompt(self, prefix: str) -> str:
        """For example "a photo of <mug> and <cat>"."""
        return prefix + " and ".join(f"<{name}>" for name in self.names)


def draw_samples(
    scene: ConceptScene, config: BreakASceneConfig, rows: int, generator: torch.Generator
) -> list[UnionSample]:
    """For each row: a picture, and a random subset of its concepts in random order."""
    return [_draw_sample(scene, config, generator) for _ in range(rows)]


def _draw_sample(
    scene: ConceptScene, config: BreakASceneConfig, generator: torch.Generator
) -> UnionSample:
    image = randint(len(scene.images), generator)
    names: Sequence[str] = list(scene.images[image].masks)
    count = 1 + randint(len(names), generator) if config.union_sampling else 1
    order = torch.randperm(len(names), generator=generator)[:count].tolist()
    mirrored = bernoulli(config.flip, generator)
    return UnionSample(image, mirrored, tuple(names[i] for i in order))


@dataclass(frozen=True, slots=True)
class _Picture:
    latent: Tensor  # [C, h, w]
    at_latent: Mapping[str, Tensor]  # name -> [h, w]
    at_maps: Mapping[str, Tensor]  # name -> [gh, gw]


class SceneDataset:
    """Data of the pictures that training does not change.

    Masks are resized with nearest neighbour (official train.py:1146-1151, 1187-1189); a mask
    thinner than a cell would vanish there, so it then uses the maximum of each cell.
    """

    def __init__(
        self, host: Host, scene: ConceptScene, downsample: int, progress: Progress = no_progress
    ) -> None:
        encode = PictureEncoder(host, 2 * len(scene.images), progress)
        self._pictures = [
            {mirrored: _picture(encode, image, downsample, mirrored) for mirrored in (False, True)}
            for image in scene.images
        ]

    def _of(self, sample: UnionSample) -> _Picture:
        return self._pictures[sample.image][sample.mirrored]

    def latents(self, samples: Sequence[UnionSample]) -> Tensor:
        """[B, C, h, w] clean latents."""
        return torch.stack([self._of(s).latent for s in samples])

    def unions(self, samples: Sequence[UnionSample]) -> Tensor:
        """[B, 1, h, w] maximum over the masks of the selected concepts."""
        masks = [torch.stack([self._of(s).at_latent[n] for n in s.names]) for s in samples]
        return torch.stack([m.amax(dim=0, keepdim=True) for m in masks])

    def targets(self, samples: Sequence[UnionSample]) -> Tensor:
        """[G, gh, gw] masks of every selected concept on the grid of the maps, sample by sample."""
        return torch.stack([self._of(s).at_maps[n] for s in samples for n in s.names])


def _picture(
    encode: PictureEncoder, picture: SceneImage, downsample: int, mirrored: bool
) -> _Picture:
    def turned(pixels: Tensor, dim: int) -> Tensor:
        return pixels.flip(dim) if mirrored else pixels

    latent = encode(turned(picture.image, 1))
    size = tuple(latent.shape[-2:])
    grid = grid_at(downsample, size)
    masks = {name: turned(mask, 1) for name, mask in picture.masks.items()}
    return _Picture(
        latent,
        {name: mask_on_grid(mask, size).to(latent.device) for name, mask in masks.items()},
        {name: mask_on_grid(mask, grid).to(latent.device) for name, mask in masks.items()},
    )
