"""Ornaments that training never showed: where they are said to be, and the same place bare."""

from __future__ import annotations

import numpy as np
import pytest

from conceptloom.tinyworld.concepts import concept
from conceptloom.tinyworld.members import KINDS, ground_colour
from conceptloom.tinyworld.ornaments import ORNAMENTS, ornament_scene
from conceptloom.tinyworld.painters.kinds import EMBLEMS
from conceptloom.tinyworld.painters.sheet import PALETTE


def test_no_caption_of_training_names_an_ornament() -> None:
    assert not set(ORNAMENTS) & set(EMBLEMS)


@pytest.mark.parametrize("ornament", ORNAMENTS)
@pytest.mark.parametrize("whole", ["mug2", "red house", "umbrella"])
def test_an_ornament_lies_on_its_object(whole: str, ornament: str) -> None:
    scene = ornament_scene(whole, ornament, 4)
    around, mark = scene.masks
    assert scene.image.shape == (128, 128, 3)
    assert (mark <= around + 1e-6).all()
    assert 0.03 < mark.sum() / around.sum() < 0.5
    assert scene.bearer.emblem == ornament
    assert ground_colour(scene.bearer) != ORNAMENTS[ornament][0]


@pytest.mark.parametrize("kind", KINDS)
def test_every_class_bears_an_ornament(kind: str) -> None:
    for seed in range(4):
        assert ornament_scene(kind, "clover", seed, size=64).masks[1].sum() > 15


def test_a_bare_object_is_the_same_outside_of_the_ornaments_place() -> None:
    adorned = ornament_scene("green house", "spiral", 7, "grass")
    bare = ornament_scene("green house", "", 7, "grass")
    assert np.array_equal(adorned.masks, bare.masks)
    outside = adorned.masks[1] == 0
    assert np.array_equal(adorned.image[outside], bare.image[outside])
    inside = adorned.masks[1] == 1
    assert (adorned.image[inside] != bare.image[inside]).any(-1).mean() > 0.9


@pytest.mark.parametrize("ornament", ORNAMENTS)
def test_the_mask_of_an_ornament_shows_where_its_two_colours_are(ornament: str) -> None:
    scene = ornament_scene("mug1", ornament, 2)
    inside = scene.image[scene.masks[1] == 1].astype(float)
    outside = scene.image[(scene.masks[1] == 0) & (scene.masks[0] == 1)].astype(float)
    colours = np.array([PALETTE[name] for name in ORNAMENTS[ornament]], float)
    near = [(abs(part[:, None] - colours).sum(-1) < 110).any(-1) for part in (inside, outside)]
    assert near[0].mean() > 0.7
    both = [(abs(inside - colour).sum(-1) < 110).mean() for colour in colours]
    assert min(both) > 0.08


def test_a_held_out_member_keeps_its_form_and_loses_its_own_marks() -> None:
    bearer, own = ornament_scene("mug3", "sun", 0).bearer, concept("mug3")
    assert bearer.pattern == "plain"
    assert own.emblem != bearer.emblem == "sun"
    marks = {"emblem_size", "emblem_form"}
    assert {k: v for k, v in bearer.numbers.items() if k not in marks} == {
        k: v for k, v in own.numbers.items() if k not in marks
    }


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("red mug", "dragon"), "unknown ornament 'dragon'; known are spiral, sun"),
        (("dragon", "sun"), "unknown object 'dragon'"),
        (("gray tree", "sun"), "no tree is gray"),
        (("blue mug", "bolt"), "blue like the bolt's disc"),
    ],
)
def test_what_cannot_be_drawn_is_refused(arguments: tuple[str, str], told: str) -> None:
    with pytest.raises(KeyError, match=told):
        ornament_scene(*arguments)
