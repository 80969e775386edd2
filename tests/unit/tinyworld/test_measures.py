"""Where a map points, and pictures and masks of every kind at one size, by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from conceptloom.tinyworld.concepts import concept_scene
from conceptloom.tinyworld.judge.networks import SIDE
from conceptloom.tinyworld.measures import localisation
from conceptloom.tinyworld.planes import at_side, iou, picture, shrunk


def square(top: int, left: int, side: int, size: int = 8) -> np.ndarray:
    mask = np.zeros((size, size), np.float32)
    mask[top : top + side, left : left + side] = 1
    return mask


def test_a_map_equal_to_the_mask_is_perfect() -> None:
    mask = square(2, 2, 3)
    found = localisation(mask * 0.3 + 0.1, mask)
    assert found.iou == 1.0
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
    mask = np.kron(square(1, 1, 2, 4), np.ones((32, 32), np.float32))  # 128 x 128
    assert localisation(square(1, 1, 2, 4), mask).iou == 1.0


def test_an_empty_mask_has_no_localisation() -> None:
    with pytest.raises(ValueError, match="covers nothing"):
        localisation(square(0, 0, 2), np.zeros((8, 8)))


def test_iou_of_nothing_is_zero() -> None:
    empty = torch.zeros(4, 4, dtype=torch.bool)
    assert iou(empty, empty) == 0.0


def test_pictures_of_every_kind_are_the_same_picture() -> None:
    image = concept_scene(["mug1"], 0).image
    as_float = torch.from_numpy(image).float() / 255
    assert torch.allclose(picture(image), picture(as_float))
    assert torch.equal(picture(as_float, 128), as_float.permute(2, 0, 1))
    assert picture(concept_scene(["mug1"], 0, size=96).image).shape == (3, SIDE, SIDE)


def test_masks_are_averaged_down_and_repeated_up() -> None:
    mask = square(0, 0, 3)
    assert torch.equal(
        at_side(mask, 4), torch.tensor([[1, 0.5, 0, 0], [0.5, 0.25, 0, 0]] + [[0.0] * 4] * 2)
    )
    assert torch.equal(at_side(mask, 16), torch.from_numpy(np.kron(mask, np.ones((2, 2)))).float())
    assert shrunk(mask, 4)[:2, :2].tolist() == [[255, 128], [128, 64]]
    assert shrunk(3 * mask, 4)[1, 1] == 191  # more than the whole counts as the whole
