"""The concepts of a step: union sampling (paper Sec. 4.2, official train.py:528-541)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ...rng import bernoulli, randint
from ...scenes.scene import ConceptScene
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
