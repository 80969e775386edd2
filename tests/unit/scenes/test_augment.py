"""Pictures made smaller and put somewhere on grey."""

from __future__ import annotations

import pytest
import torch

from conceptloom.errors import ConfigError
from conceptloom.scenes.augment import SMALLEST, placed_smaller


def drawn(seed: int, smallest: float = SMALLEST):
    image = torch.full((24, 36, 3), 0.9)
    masks = {"cup": torch.ones(24, 36)}
    return placed_smaller(image, masks, torch.Generator().manual_seed(seed), smallest)


def test_picture_mask_and_valid_place_go_together() -> None:
    for seed in range(8):
        found = drawn(seed)
        inside = found.valid == 1
        assert found.image.shape == (24, 36, 3)
        torch.testing.assert_close(found.image[inside], torch.full_like(found.image[inside], 0.9))
        assert (found.image[~inside] == 0.5).all()
        assert torch.equal(found.masks["cup"] > 0.5, inside)


def test_sizes_and_places_vary_within_a_third_and_the_whole() -> None:
    found = [drawn(seed).valid for seed in range(40)]
    shares = [float(valid.mean()) ** 0.5 for valid in found]
    assert SMALLEST - 0.03 <= min(shares) < 0.5
    assert 0.8 < max(shares) <= 1
    corners = {tuple(valid.nonzero()[0].tolist()) for valid in found}
    assert len(corners) > 20


def test_a_smallest_of_one_changes_nothing_and_seeds_repeat() -> None:
    whole = drawn(0, 1.0)
    assert (whole.image == 0.9).all()
    assert (whole.valid == 1).all()
    assert all(torch.equal(a, b) for a, b in zip(drawn(3)[::2], drawn(3)[::2], strict=True))
    with pytest.raises(ConfigError, match="smallest"):
        drawn(0, 1.5)
