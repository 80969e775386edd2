"""What the quality benchmark of Break-A-Scene teaches."""

from __future__ import annotations

import pytest
import torch
from quality_cells import asked_of, scene_of
from quality_plan import LESSONS, SURROUNDINGS, SceneLesson


@pytest.mark.parametrize("lesson", LESSONS, ids=lambda lesson: lesson.name)
def test_objects_and_surroundings_share_every_pixel_of_the_picture(lesson: SceneLesson) -> None:
    scene = scene_of(lesson, surroundings=True)
    masks = scene.images[0].masks
    assert list(masks) == [*lesson.handles, SURROUNDINGS]
    everything = torch.stack(list(masks.values())).sum(dim=0)
    assert torch.allclose(everything, torch.ones_like(everything))
    assert scene.words[SURROUNDINGS]


def test_surroundings_are_neither_asked_for_nor_learned_unless_wanted() -> None:
    lesson = LESSONS[0]
    assert all(SURROUNDINGS not in names for names in asked_of(lesson))
    assert scene_of(lesson, surroundings=False).names == lesson.handles
