"""Ornaments on parts: where they are said to be, cut off by their object, the same place bare."""

from __future__ import annotations

import numpy as np
import pytest

from conceptloom.tinyworld.concepts import CONCEPTS
from conceptloom.tinyworld.ornaments import PARTS, ornament_scene


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("whole", ["yellow square", "red striped circle"])
def test_an_ornament_lies_inside_its_object_on_the_part_that_was_asked_for(
    whole: str, part: str
) -> None:
    scene = ornament_scene(whole, "bullseye", 4, part=part)
    around, mark = scene.masks
    assert (mark <= around + 1e-6).all()
    assert 0.08 < mark.sum() / around.sum() < 0.75
    rows, columns = np.indices(mark.shape)
    away = [
        ((mark * at).sum() / mark.sum() - (around * at).sum() / around.sum()) / (0.34 * 64)
        for at in (columns, rows)
    ]
    assert away == pytest.approx(PARTS[part], abs=0.17)  # radii; the object may be turned


def test_a_bare_part_leaves_the_picture_as_it_is_outside_of_the_ornament() -> None:
    with_one = ornament_scene("green square", "twotone", 7, "grass", part="top")
    bare = ornament_scene("green square", "", 7, "grass", part="top")
    assert np.array_equal(with_one.masks[0], bare.masks[0])
    outside = np.maximum(with_one.masks[1], bare.masks[1]) == 0
    assert np.array_equal(with_one.image[outside], bare.image[outside])
    inside = with_one.masks[1] == 1
    assert not np.array_equal(with_one.image[inside], bare.image[inside])
    assert bare.caption == "a photo of a green square"
    assert with_one.caption == "a photo of a green square with a twotone"


def test_the_mask_of_an_ornament_shows_where_it_was_painted() -> None:
    scene = ornament_scene("yellow square", "split", 2)
    inside = scene.image[scene.masks[1] == 1].astype(int)
    distance = [abs(inside - colour).sum(1) for colour in ((15, 85, 60), (250, 150, 125))]
    assert np.median(np.minimum(*distance)) == 0  # the two colours, but for the seam of the halves
    assert (scene.image[(scene.masks[1] == 0) & (scene.masks[0] == 1)] == (245, 225, 50)).all()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("yellow square", "dragon"), "unknown ornament"),
        (("mug", "bullseye"), "no object of the vocabulary"),
        (("red ring", "bullseye"), "has no middle"),
    ],
)
def test_what_cannot_be_drawn_is_refused(arguments: tuple[str, str], told: str) -> None:
    with pytest.raises(KeyError, match=told):
        ornament_scene(*arguments)
    with pytest.raises(KeyError, match="unknown part"):
        ornament_scene("yellow square", next(iter(CONCEPTS)), part="back")
