"""Means of LAG's masks: over the passes that had a picture."""

from __future__ import annotations

import torch

from conceptloom.attention.lag_maps import LagMaps
from conceptloom.host.ports import BatchPart, ForwardInfo, Place, TransformerSite

SITE = TransformerSite("block", Place.MID, 0, 1, 8, 1, 1, torch.nn.Identity())
SIZE = (4, 4)


def masks_of(seed: int, pictures: int = 3) -> torch.Tensor:
    return torch.rand(pictures, 2, *SIZE, generator=torch.Generator().manual_seed(seed))


def info_of(pictures: tuple[int, ...], part: BatchPart | None = None) -> ForwardInfo:
    rows = len(pictures)
    shape, times = (rows, 4, *SIZE), torch.zeros(rows)
    return ForwardInfo(shape, times, (True,) * rows, 7, pictures=pictures, part=part)


def test_parts_of_a_batch_have_the_mean_of_the_whole_batch():
    whole, parts = LagMaps(), LagMaps()
    for step in range(3):
        masks, shown = masks_of(step), torch.zeros(3, 2, *SIZE)
        whole(SITE, masks, info_of((0, 1, 2)))
        for number, pictures in enumerate(((0, 2), (1,))):
            shown = shown.clone()
            shown[list(pictures)] = masks[list(pictures)]
            parts(SITE, shown, info_of(pictures, BatchPart(number, pictures, 3)))
    expected = torch.stack([masks_of(step) for step in range(3)]).mean(dim=0)
    for maps in (whole, parts):
        torch.testing.assert_close(maps.averaged(SIZE), expected)
        torch.testing.assert_close(maps.newest(SIZE), masks_of(2))


def test_a_part_that_never_reports_has_empty_masks():
    maps, masks = LagMaps(), masks_of(0, 2)
    masks[0] = 0  # its prompt lacks the concept, so that only the second part reports
    for _ in range(2):
        maps(SITE, masks, info_of((1,), BatchPart(1, (1,), 2)))
    torch.testing.assert_close(maps.averaged(SIZE), masks)
