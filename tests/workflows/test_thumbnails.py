"""Pictures of a workflow on its thumbnail."""

from __future__ import annotations

from itertools import chain, combinations

import pytest
from PIL import Image
from workflow_assets import PAPER, THUMBNAIL_PX, placed, thumbnail


def test_rows_stay_on_the_sheet_in_order_and_apart():
    rows = [[Image.new("RGB", (64, 64)), Image.new("RGB", (200, 64))], [Image.new("RGB", (90, 30))]]
    boxes = placed(rows)
    for (left, top, width, height), image in zip(boxes, chain(*rows), strict=True):
        assert left in range(THUMBNAIL_PX[0])
        assert top in range(THUMBNAIL_PX[1])
        assert left + width <= THUMBNAIL_PX[0] + 1
        assert top + height <= THUMBNAIL_PX[1] + 1
        assert width / height == pytest.approx(image.width / image.height, rel=0.02)
    for one, other in combinations(boxes, 2):
        is_left = one[0] + one[2] <= other[0] + 1
        is_above = one[1] + one[3] <= other[1] + 1
        assert is_left or is_above
    assert boxes[0][1] == boxes[1][1] < boxes[2][1]


@pytest.mark.parametrize("sizes", [[(64, 64)] * 12, [(400, 100)] * 3, [(40, 90)] * 4])
def test_little_paper_is_left_bare(sizes: list[tuple[int, int]]):
    sheet = thumbnail([Image.new("RGB", size, (200, 30, 30)) for size in sizes])
    assert sheet.size == THUMBNAIL_PX
    bare = sum(count for count, colour in sheet.getcolors(1 << 20) if colour == PAPER)
    assert bare / (sheet.width * sheet.height) < 0.35
