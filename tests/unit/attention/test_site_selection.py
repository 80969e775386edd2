"""At which depth maps are read."""

from __future__ import annotations

import pytest

from conceptloom.attention.site_selection import grid_at, sites_to_read
from conceptloom.errors import ConfigError
from conceptloom.host.ports import Place, TransformerSite, UNetSites


def sites(*factors: int) -> UNetSites:
    made = [
        TransformerSite(f"{place.value}{downsample}", place, 1, downsample, 8, 1, 1, None)
        for place in (Place.DOWN, Place.UP)
        for downsample in factors
    ]
    middle = TransformerSite("middle", Place.MID, 0, 2 * max(factors), 8, 1, 1, None)
    return UNetSites((*made, middle), ())


SD1, SDXL = sites(1, 2, 4), sites(2, 4)


@pytest.mark.parametrize(
    ("model", "size", "downsample"),
    [
        (SD1, (64, 64), 4),  # 16x16 at 512 px: the paper's
        (SD1, (96, 96), 4),  # 24x24 at 768 px
        (SDXL, (128, 128), 4),  # 32x32 at 1024 px
        (SD1, (64, 45), 4),  # 16x12
        (SD1, (64, 44), 2),  # 11 columns with factor 4 are too few
        (SD1, (32, 32), 2),
        (SD1, (16, 16), 1),
        (SD1, (8, 8), 1),  # nothing is fine enough: the finest there is
        (SDXL, (16, 16), 2),
        (sites(8, 16), (64, 64), 8),  # nothing at the paper's depth: the nearest
    ],
)
def test_the_level_that_is_picked(model: UNetSites, size: tuple[int, int], downsample: int) -> None:
    read = sites_to_read(model, size)
    assert {site.downsample for site in read} == {downsample}
    assert {site.place for site in read} == {Place.DOWN, Place.UP}


def test_a_level_may_be_chosen() -> None:
    assert [s.name for s in sites_to_read(SD1, (64, 64), 1)] == ["down1", "up1"]


@pytest.mark.parametrize("downsample", [3, 8, -1])
def test_a_level_that_is_not_there_is_reported(downsample: int) -> None:
    with pytest.raises(
        ConfigError, match=f"attention_level is {downsample}; .*one of 1, 2, 4 for this"
    ):
        sites_to_read(SD1, (64, 64), downsample)


def test_grids_round_up_like_the_features() -> None:
    assert grid_at(4, (64, 45)) == (16, 12)
    assert grid_at(8, (9, 1)) == (2, 1)
