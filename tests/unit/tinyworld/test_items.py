"""Objects without a class: plain shapes in their colours, and nameless ones."""

from __future__ import annotations

import numpy as np
import pytest

from conceptloom.tinyworld.items import nameless_item, vocabulary_item
from conceptloom.tinyworld.scenes import Placed, Scene, render
from conceptloom.tinyworld.shapes import COLOURS, SHAPES, pattern


def shown(*items, radii=(0.25,), size: int = 64) -> Scene:
    """Items on top of each other in the middle of a white picture."""
    things = [
        Placed(what=item, x=0.5, y=0.5, radius=radius)
        for item, radius in zip(items, radii, strict=True)
    ]
    return render(things, "white", np.random.default_rng(0), size)


def test_a_plain_shape_is_painted_in_its_colour_where_its_mask_is() -> None:
    scene = shown(vocabulary_item("red", "square", "plain", 0.25, np.random.default_rng(0)))
    inside, outside = scene.image[scene.masks[0] == 1], scene.image[scene.masks[0] == 0]
    shades = inside / np.float32(COLOURS["red"])  # light comes from one side
    assert 0.8 < shades.min() < 0.95
    assert shades.max() == pytest.approx(1.1, abs=0.03)
    assert outside.min() > 225
    # a square of 2 * 0.82 * 0.25 of the picture's side
    assert scene.masks[0].mean() == pytest.approx(0.41**2, rel=0.03)


def test_masks_of_overlapping_items_show_the_visible_part() -> None:
    rng = np.random.default_rng(0)
    below = vocabulary_item("red", "square", "plain", 0.3, rng)
    above = vocabulary_item("blue", "circle", "plain", 0.1, rng)
    masks = shown(below, above, radii=(0.3, 0.1)).masks
    assert masks.sum(0).max() <= 1 + 1e-6
    assert masks[0, 32, 32] == 0
    assert masks[1, 32, 32] == 1


def test_marks_keep_their_size_whatever_the_size_of_their_shape() -> None:
    """Twice the radius bears twice the stripes from side to side."""
    at = np.linspace(-0.5, 0.5, 2000, dtype=np.float32)
    changes = []
    for radius in (0.12, 0.24):
        item = vocabulary_item("red", "square", "striped", radius, np.random.default_rng(3))
        _, colour = item.paint(at, np.zeros_like(at))
        changes.append(int((np.diff(colour[:, 1]) != 0).sum()))
    assert changes[1] == pytest.approx(2 * changes[0], abs=1)
    assert changes[0] >= 1


def test_nameless_things_all_differ_and_have_no_words() -> None:
    rng = np.random.default_rng(1)
    items = [nameless_item(0.3, rng) for _ in range(12)]
    assert all((item.colour, item.texture, item.shape) == (None, None, None) for item in items)
    scenes = [shown(item, radii=(0.3,)) for item in items]
    assert all(scene.masks[0].mean() > 0.06 for scene in scenes)
    for i, one in enumerate(scenes):
        assert all(not np.array_equal(one.image, other.image) for other in scenes[:i])


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
