"""Objects by their names: held-out members, known members, plain shapes; the rest is refused."""

from __future__ import annotations

import numpy as np
import pytest

from conceptloom.tinyworld.captions import caption_words
from conceptloom.tinyworld.concepts import (
    CONCEPTS,
    alike_member,
    concept,
    concept_scene,
    known_member,
    region_prompt,
)
from conceptloom.tinyworld.items import Item
from conceptloom.tinyworld.members import KINDS, distance, held_out, is_kept_away


def test_a_name_is_a_class_and_a_number() -> None:
    assert concept("mug1") == held_out("mug")[0]
    assert concept("cat4") == held_out("cat")[3]
    for name in ("mug", "mug0", "mug5", "dragon1"):
        with pytest.raises(KeyError, match="unknown concept"):
            concept(name)


def test_no_caption_names_a_concept() -> None:
    assert len(CONCEPTS) == 4 * len(KINDS) >= 48
    assert not set(CONCEPTS) & set(caption_words())


def test_scenes_mix_held_out_members_known_ones_and_plain_shapes() -> None:
    scene = concept_scene(["mug1", "red striped square", "green fish"], 0, "grass")
    mug, square, fish = (thing.what for thing in scene.things)
    assert mug == concept("mug1")
    assert isinstance(square, Item)
    assert (square.colour, square.texture, square.shape) == ("red", "striped", "square")
    assert (fish.kind, fish.colour) == ("fish", "green")
    assert not is_kept_away(fish)
    assert scene.masks.shape == (3, 128, 128)
    assert (scene.masks.max((1, 2)) == 1).all()


@pytest.mark.parametrize("size", [32, 64, 128])
def test_masks_keep_their_share_at_every_size(size: int) -> None:
    scene = concept_scene(["robot1", "flower2"], 3, "sky", size)
    assert scene.image.shape == (size, size, 3)
    assert scene.masks.shape == (2, size, size)
    base = concept_scene(["robot1", "flower2"], 3, "sky").masks.mean((1, 2))
    assert scene.masks.mean((1, 2)) == pytest.approx(base, rel=0.1)


def test_a_seed_decides_the_places_and_the_members_without_a_number() -> None:
    first, again = (concept_scene(["mug", "cat2"], 5, "beach", 64) for _ in range(2))
    other = concept_scene(["mug", "cat2"], 6, "beach", 64)
    assert np.array_equal(first.image, again.image)
    assert first.things[0].what != other.things[0].what
    assert first.things[1].what == other.things[1].what
    assert (first.things[1].x, first.things[1].y) != (other.things[1].x, other.things[1].y)


@pytest.mark.parametrize("words", ["dragon", "mug5", "red green mug", "tiny circle", "circle", ""])
def test_unknown_names_are_refused_with_what_is_known(words: str) -> None:
    with pytest.raises(KeyError, match=r"unknown object .* such as mug1.* Classes: mug, vase"):
        concept_scene([words])


def test_a_colour_that_a_class_never_has_is_refused() -> None:
    with pytest.raises(KeyError, match=r"no tree is gray; its colours: red, orange"):
        known_member("gray tree", np.random.default_rng(0))


def test_the_prompt_of_a_region_names_the_others_by_their_class() -> None:
    sentence, things = "a photo of a blue house and a ball at the beach", ["blue house", "ball"]
    assert region_prompt(sentence, things, "blue house") == (
        "a photo of a <my-house> house and a ball at the beach"
    )
    assert region_prompt(sentence, things, "ball") == (
        "a photo of a house and a <my-ball> ball at the beach"
    )


def test_an_alike_member_is_known_and_nearer_than_most() -> None:
    own, rng = concept("house2"), np.random.default_rng(0)
    alike = alike_member("house2", "blue house", rng)
    assert (alike.kind, alike.colour) == ("house", "blue")
    others = [distance(known_member("blue house", rng), own) for _ in range(10)]
    assert 0 < distance(alike, own) < np.median(others)
