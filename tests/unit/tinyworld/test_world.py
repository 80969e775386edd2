"""The renderer: same seed same picture, masks that tell the truth, captions from the vocabulary."""

from __future__ import annotations

import numpy as np
import pytest

from conceptloom.tinyworld.concepts import CONCEPTS, concept_scene
from conceptloom.tinyworld.shapes import BACKGROUNDS, COLOURS, SHAPES, pattern
from conceptloom.tinyworld.world import (
    article,
    place,
    random_scene,
    render,
    vocabulary_item,
    world_words,
)


def test_same_generator_gives_the_same_scene() -> None:
    a, b = (random_scene(np.random.default_rng(5)) for _ in range(2))
    assert a.caption == b.caption
    assert np.array_equal(a.image, b.image)
    assert np.array_equal(a.masks, b.masks)


def test_mask_covers_what_was_painted() -> None:
    rng = np.random.default_rng(0)
    thing = vocabulary_item("red", "square", "plain", (0.5, 0.5, 0.25), rng)
    image, masks = render([thing], "white", rng)
    inside, outside = image[masks[0] == 1], image[masks[0] == 0]
    assert np.all(inside == COLOURS["red"])
    assert np.all(outside == 245)
    # a square of 2 * 0.82 * 0.25 of the picture's side
    assert masks[0].mean() == pytest.approx(0.41**2, rel=0.03)


def test_masks_of_overlapping_items_show_the_visible_part() -> None:
    rng = np.random.default_rng(0)
    below = vocabulary_item("red", "square", "plain", (0.5, 0.5, 0.3), rng)
    above = vocabulary_item("blue", "circle", "plain", (0.5, 0.5, 0.1), rng)
    _, masks = render([below, above], "white", rng)
    assert masks.sum(0).max() <= 1 + 1e-6
    assert masks[0, 32, 32] == 0
    assert masks[1, 32, 32] == 1


@pytest.mark.parametrize("size", [32, 64, 128])
def test_masks_keep_their_share_at_every_size(size: int) -> None:
    scene = concept_scene(["robot", "flower"], 3, "sky", size)
    assert scene.image.shape == (size, size, 3)
    assert scene.masks.shape == (2, size, size)
    base = concept_scene(["robot", "flower"], 3, "sky").masks.mean((1, 2))
    assert scene.masks.mean((1, 2)) == pytest.approx(base, rel=0.1)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_placed_items_do_not_touch_and_stay_inside(count: int) -> None:
    for seed in range(20):
        spots = place(count, np.random.default_rng(seed))
        for i, (x, y, r) in enumerate(spots):
            assert min(x, y) - r >= 0
            assert max(x, y) + r <= 1
            for ox, oy, other in spots[:i]:
                assert np.hypot(x - ox, y - oy) > r + other


def test_every_shape_is_its_own_silhouette() -> None:
    at = np.linspace(-1, 1, 64, dtype=np.float32)
    u, v = np.meshgrid(at, at)
    masks = {name: shape(u, v) for name, shape in SHAPES.items()}
    for name, mask in masks.items():
        others = [other for kind, other in masks.items() if kind != name]
        assert all((mask & other).sum() / (mask | other).sum() < 0.85 for other in others)


def test_stripes_are_half_of_a_long_way() -> None:
    at = np.linspace(0, 8, 800, endpoint=False, dtype=np.float32)
    assert pattern("striped", at, at, 1.0, 0.25).mean() == pytest.approx(0.5, abs=0.01)
    assert not pattern("plain", at, at, 1.0, 0.0).any()


def test_captions_use_the_known_words_only() -> None:
    known = set(world_words())
    rng = np.random.default_rng(1)
    for _ in range(60):
        words = random_scene(rng).caption.replace(",", " ,").split()
        assert set(words) <= known


def test_backgrounds_without_objects_have_captions_too() -> None:
    rng = np.random.default_rng(2)
    empty = next(s for s in iter(lambda: random_scene(rng), None) if not s.items)
    assert empty.masks.shape == (0, 64, 64)
    assert empty.background in BACKGROUNDS
    assert empty.caption


def test_concepts_are_outside_the_vocabulary() -> None:
    assert len(CONCEPTS) >= 12
    assert not set(CONCEPTS) & set(world_words())


def test_concept_scenes_mix_with_vocabulary_objects() -> None:
    scene = concept_scene(["swirl", "red striped square", "mug"], 0, "grass")
    assert scene.masks.shape[0] == 3
    assert (scene.masks.max((1, 2)) == 1).all()
    assert [item.shape for item in scene.items] == [None, "square", None]


def test_unknown_names_are_refused() -> None:
    with pytest.raises(KeyError, match="unknown object 'dragon'"):
        concept_scene(["dragon"])


@pytest.mark.parametrize(("words", "phrase"), [("orange ring", "an orange ring"), ("mug", "a mug")])
def test_article(words: str, phrase: str) -> None:
    assert article(words) == phrase
