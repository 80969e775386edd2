"""Photographs that a command redraws at their own size: what fits, and what is far too large."""

from __future__ import annotations

import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from PIL import Image

from conceptloom.cli.drawing import natural_size
from conceptloom.cli.own_pictures import native_size, picture_for
from conceptloom.errors import ImageError
from conceptloom.host.diffusers import DiffusersHost
from conceptloom.host.ports import Host
from conceptloom.tinyworld.presets import SIZE

WIDTH = {"tinyworld": 96, "sd1": 320}


def host(kind: str = "tinyworld") -> Host:
    site = SimpleNamespace(width=WIDTH[kind])
    parts: dict[str, Any] = {
        "pixels_per_latent": 8,
        "sites": SimpleNamespace(transformers=[site], resnets=[site]),
        "encoders": {"clip_l": 768},
    }
    return cast(Host, SimpleNamespace(**parts))


def photograph(folder: Path, width: int, height: int) -> Path:
    path = folder / f"{width}.png"
    Image.fromarray(np.zeros((height, width, 3), np.uint8)).save(path)
    return path


@pytest.mark.parametrize(
    ("kind", "size_px", "native"),
    [
        ("tinyworld", (64, 64), (128, 128)),
        ("tinyworld", (750, 1000), (112, 144)),
        ("sd1", (750, 1000), (440, 592)),
        ("sd1", (4000, 3000), (592, 440)),
        ("tinyworld", (8, 4000), (8, 2864)),
    ],
)
def test_the_native_size_keeps_the_aspect(
    kind: str, size_px: tuple[int, int], native: tuple[int, int]
):
    assert native_size(host(kind), size_px) == native


def test_the_bundled_model_draws_at_the_size_it_was_trained_at():
    assert natural_size(DiffusersHost.tinyworld()) == (SIZE, SIZE) == (128, 128)


def test_a_picture_off_the_grid_is_refused_with_a_size_that_works(tmp_path: Path):
    photo = photograph(tmp_path, 1001, 750)
    with pytest.raises(
        ImageError, match=r"1001x750 px; .*multiples of 8 .*example to 144 x 112 px"
    ):
        picture_for(host(), photo)


def test_a_large_picture_is_told_before_minutes_pass(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    with caplog.at_level(logging.WARNING, "conceptloom"):
        image = picture_for(host(), photograph(tmp_path, 1000, 752))
    assert image.shape == (752, 1000, 3)
    assert "46 times the pixels" in caplog.text
    assert "144 x 112 px" in caplog.text


def test_a_picture_of_about_the_native_size_is_taken_without_a_word(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    with caplog.at_level(logging.WARNING, "conceptloom"):
        picture_for(host(), photograph(tmp_path, 256, 256))
        picture_for(host("sd1"), photograph(tmp_path, 768, 512))
    assert not caplog.text
