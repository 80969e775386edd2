"""Outlines are compared by geometry alone."""

from __future__ import annotations

import numpy as np
import pytest

from conceptloom.tinyworld.shapes import OUTLINES, SHAPES, blob
from conceptloom.tinyworld.silhouettes import nearest_silhouette


def grid(size: int = 64) -> tuple[np.ndarray, np.ndarray]:
    at = np.linspace(-1.6, 1.6, size, dtype=np.float32)
    return tuple(np.meshgrid(at, at))


@pytest.mark.parametrize("name", SHAPES)
def test_a_named_shape_is_its_own_nearest_however_it_lies(name: str) -> None:
    x, y = grid()
    cos, sin = np.float32(np.cos(0.4)), np.float32(np.sin(0.4))
    for u, v in ((x, y), (2 * x - 0.6, 2 * y + 0.5), (cos * x + sin * y, cos * y - sin * x)):
        found = nearest_silhouette(SHAPES[name](u, v))
        assert found.name == name
        assert found.overlap > 0.8
        assert found.novelty == pytest.approx(1 - found.overlap)


def test_outlines_without_a_word_are_less_like_any() -> None:
    x, y = grid()
    pill = nearest_silhouette(OUTLINES["pill"](x, y))
    assert pill.overlap < 0.85
    scraps = np.zeros((64, 64), bool)
    scraps[10:54:9, 8:40] = True
    assert nearest_silhouette(scraps).novelty > 0.4
    blobs = [nearest_silhouette(blob(x, y, np.random.default_rng(i))).overlap for i in range(5)]
    assert np.mean(blobs) < 0.95


def test_an_empty_mask_is_refused() -> None:
    with pytest.raises(ValueError, match="empty"):
        nearest_silhouette(np.zeros((8, 8)))
