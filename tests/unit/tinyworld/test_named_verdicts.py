"""Verdicts by name: true pictures are right, others are not, and the summary says why."""

from __future__ import annotations

import pytest

from conceptloom.tinyworld.concepts import concept_scene
from conceptloom.tinyworld.judge.judge import load_judge
from conceptloom.tinyworld.judge.lineup import LINEUP
from conceptloom.tinyworld.judge.named import (
    BARE,
    SceneJudge,
    Verdict,
    identity_of,
    ornament_identity,
    ornament_lineup,
)
from conceptloom.tinyworld.judge.scores import Identity
from conceptloom.tinyworld.ornaments import OrnamentScene, ornament_scene

HANDLES = {"my-mug": "mug1", "my-fish": "fish2"}


def test_a_true_picture_is_as_asked() -> None:
    scene = concept_scene(["mug1", "fish2"], 3, "grass")
    verdict = SceneJudge(HANDLES).look(scene.image, list(HANDLES))
    assert verdict.is_right("grass")
    assert verdict.summary("grass") == "<my-mug>, <my-fish> found"
    assert {name: one.nearest for name, one in verdict.identities.items()} == {
        name: name for name in HANDLES
    }


@pytest.mark.parametrize(
    ("shown", "asked", "place", "told"),
    [
        (["mug1", "fish2"], ["my-mug"], "sky", "<my-mug> found; <my-fish> too much"),
        (["mug2"], ["my-mug"], "sky", "<my-mug> not found"),  # another mug
        (["mug1", "fish3"], ["my-mug"], "sky", "<my-mug> found; <my-fish> too much"),
        (["fish2"], ["my-mug", "my-fish"], "sky", "<my-fish> found; <my-mug> not found"),
        (["mug1"], ["my-mug"], "beach", "<my-mug> found; background sky"),
    ],
)
def test_what_is_missing_or_too_much_is_told(
    shown: list[str], asked: list[str], place: str, told: str
) -> None:
    verdict = SceneJudge(HANDLES).look(concept_scene(shown, 3, "sky").image, asked)
    assert not verdict.is_right(place)
    assert verdict.summary(place) == told


def test_a_member_that_is_nearest_but_not_alike_enough_is_unclear() -> None:
    seen = Identity(similarity=0.83, nearest="my-mug", right=False, found=None)
    verdict = Verdict(identities={"my-mug": seen}, leaked=[], background="sky")
    assert not verdict.is_right("sky")
    assert verdict.summary("sky") == "<my-mug> unclear (likeness 0.83)"


def test_nothing_is_no_member() -> None:
    assert not identity_of([], "mug1").right


def test_an_ornament_is_told_from_its_likes() -> None:
    adorned = ornament_scene("blue vase", "spiral", 105, "sky")
    bare, sun = (ornament_scene("blue vase", name, 105, "sky") for name in ("", "sun"))
    others, judge = ornament_lineup(adorned.bearer), load_judge()
    assert len(others.references) == LINEUP

    def seen(scene: OrnamentScene) -> str:
        found = judge.describe(scene.image, scene.masks[0])
        return ornament_identity([found], adorned.bearer, others).nearest

    assert [seen(one) for one in (adorned, bare, sun)] == ["spiral", BARE, "sun"]
