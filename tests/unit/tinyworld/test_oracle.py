"""The oracle: hand-checked measures, and that it reads what the renderer drew."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from conceptloom.tinyworld.concepts import CONCEPTS, concept_scene
from conceptloom.tinyworld.measures import background_change, localisation
from conceptloom.tinyworld.oracle import Oracle, load_oracle
from conceptloom.tinyworld.planes import components, iou, picture
from conceptloom.tinyworld.shapes import BACKGROUNDS


@pytest.fixture(scope="module")
def oracle() -> Oracle:
    return load_oracle()


def square(top: int, left: int, side: int, size: int = 8) -> np.ndarray:
    mask = np.zeros((size, size), np.float32)
    mask[top : top + side, left : left + side] = 1
    return mask


def test_a_map_equal_to_the_mask_is_perfect() -> None:
    mask = square(2, 2, 3)
    found = localisation(mask * 0.3 + 0.1, mask)
    assert (found.iou, found.iou_area) == (1.0, 1.0)
    assert found.auc == pytest.approx(1.0, abs=1e-6)


def test_localisation_by_hand() -> None:
    # 4 of 64 pixels are the object; the map marks 2 of them and 2 beside
    mask, pointer = square(0, 0, 2), square(0, 1, 2)
    found = localisation(pointer, mask)
    assert found.iou == pytest.approx(2 / 6)
    inverted = localisation(-mask, mask)
    assert inverted.iou == 0.0
    assert inverted.auc == pytest.approx(0.0, abs=1e-6)


def test_localisation_works_at_the_resolution_of_the_map() -> None:
    mask = np.kron(square(1, 1, 2, 4), np.ones((16, 16), np.float32))  # 64 x 64
    assert localisation(square(1, 1, 2, 4), mask).iou == 1.0


def test_an_empty_mask_has_no_localisation() -> None:
    with pytest.raises(ValueError, match="covers nothing"):
        localisation(square(0, 0, 2), np.zeros((8, 8)))


def test_iou_of_nothing_is_zero() -> None:
    empty = torch.zeros(4, 4, dtype=torch.bool)
    assert iou(empty, empty) == 0.0


def test_background_change_ignores_the_edited_part() -> None:
    before = np.zeros((8, 8, 3), np.float32)
    after = before.copy()
    after[:4] = 1
    edited = np.zeros((8, 8))
    edited[:4] = 1
    assert background_change(before, after, edited) == (float("inf"), 0.0)
    after[7, 7] = 0.1
    decibel, largest = background_change(before, after, edited)
    assert largest == pytest.approx(0.1)
    assert decibel == pytest.approx(-10 * np.log10(0.01 / 32), abs=1e-3)


def test_background_change_wants_equal_sizes() -> None:
    with pytest.raises(ValueError, match="differ in size"):
        background_change(np.zeros((4, 4, 3)), np.zeros((8, 8, 3)), np.zeros((4, 4)))


def test_components_come_apart_largest_first() -> None:
    mask = torch.from_numpy(square(0, 0, 2) + square(4, 4, 3)) > 0
    parts = components(mask)
    assert [int(p.sum()) for p in parts] == [9, 4]
    assert components(torch.zeros(8, 8, dtype=torch.bool)) == []


def test_pictures_of_every_kind_are_the_same_picture() -> None:
    image = concept_scene(["mug"], 0).image
    as_float = torch.from_numpy(image).float() / 255
    assert torch.allclose(picture(image), picture(as_float))
    assert picture(concept_scene(["mug"], 0, size=128).image).shape == (3, 64, 64)


def test_vocabulary_objects_are_read(oracle: Oracle) -> None:
    wanted = [("red", "square"), ("blue", "ring")]
    verdicts = [
        verdict
        for seed in range(4)
        for verdict in oracle.reads(
            concept_scene(["red square", "blue ring"], seed, "gray").image, wanted
        )
    ]
    assert sum(c and s for c, s in verdicts) >= 7
    image = concept_scene(["red square"], 0, "gray").image
    assert oracle.reads(image, [("green", "square")]) == [(False, False)]


def test_backgrounds_are_read(oracle: Oracle) -> None:
    right = [
        oracle.background(concept_scene(["yellow star"], seed, kind).image) == kind
        for seed in range(2)
        for kind in BACKGROUNDS
    ]
    assert np.mean(right) >= 0.9


def test_unseen_concepts_are_told_apart(oracle: Oracle) -> None:
    scenes = {name: concept_scene([name], 1, "gray") for name in CONCEPTS}
    references = {n: oracle.reference(s.image, s.masks[0]) for n, s in scenes.items()}
    right = [
        oracle.identity(concept_scene([name], seed, "white").image, references, name).right
        for name in CONCEPTS
        for seed in (2, 3)
    ]
    assert np.mean(right) >= 0.9


def test_a_concept_that_was_not_asked_for_is_a_leak(oracle: Oracle) -> None:
    scene = concept_scene(["flower", "mug"], 3, "gray")
    names = ("flower", "mug")
    references = {
        n: oracle.reference(scene.image, m) for n, m in zip(names, scene.masks, strict=True)
    }
    assert oracle.leaked(scene.image, references, expected=names) == []
    assert oracle.leaked(scene.image, references, expected=["flower"]) == ["mug"]
    assert sorted(oracle.leaked(scene.image, references)) == ["flower", "mug"]


def test_an_empty_picture_shows_nothing(oracle: Oracle) -> None:
    blank = np.full((64, 64, 3), 245, np.uint8)
    assert oracle.find(blank) == []
    verdict = oracle.identity(blank, {"a": torch.ones(64) / 8}, "a")
    assert (verdict.right, verdict.nearest, verdict.mask) == (False, "", None)
    with pytest.raises(ValueError, match="mask is empty"):
        oracle.describe(blank, np.zeros((64, 64)))
