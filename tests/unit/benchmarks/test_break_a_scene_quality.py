"""What the quality benchmark of Break-A-Scene teaches."""

from __future__ import annotations

import pytest
import torch
from quality.break_a_scene import SURROUNDINGS, asked_of, scene_of
from quality.tasks import SCENES, SceneTask


@pytest.mark.parametrize("task", SCENES, ids=lambda task: task.name)
def test_objects_and_surroundings_share_every_pixel_of_the_picture(task: SceneTask) -> None:
    scene = scene_of(task, surroundings=True)
    masks = scene.images[0].masks
    assert list(masks) == [*task.handles, SURROUNDINGS]
    everything = torch.stack(list(masks.values())).sum(dim=0)
    assert torch.allclose(everything, torch.ones_like(everything))
    assert scene.words[SURROUNDINGS]


def test_surroundings_are_neither_asked_for_nor_learned_unless_wanted() -> None:
    task = SCENES[0]
    assert all(SURROUNDINGS not in names for names in asked_of(task))
    assert scene_of(task, surroundings=False).names == task.handles
