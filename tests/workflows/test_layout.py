"""Stories get the room that the editor takes, and what has room already stays."""

from __future__ import annotations

from workflow_layout import NARROWEST_PX, Box, height_of, settle, widen


def frame(left: int, top: int, width: int, height: int) -> dict:
    return {"title": "frame", "bounding": [left, top, width, height]}


def test_what_has_room_stays_where_it_is():
    boxes = [Box(60, 100, 300, 100), Box(60, 300, 300, 100), Box(500, 100, 300, 400)]
    settle(boxes, [])
    assert [box.y for box in boxes] == [100, 300, 100]


def test_a_box_moves_below_the_one_that_it_meets():
    boxes = [Box(60, 100, 300, 250), Box(60, 300, 300, 100), Box(500, 300, 300, 100)]
    settle(boxes, [])
    assert boxes[1].y - 30 >= 350  # below it, with the title
    assert boxes[2].y == 300  # beside it


def test_a_frame_grows_around_its_boxes_and_pushes_the_next_one_down():
    inside, below = Box(60, 100, 300, 500), Box(60, 400, 300, 100)
    upper, lower = settle([inside, below], [frame(40, 30, 340, 300), frame(40, 340, 340, 200)])
    assert upper["bounding"] == [40, 30, 340, 590]
    assert lower["bounding"][1] >= 620
    assert below.y == lower["bounding"][1] + 70


def test_boxes_of_one_frame_move_together():
    first, second = Box(60, 200, 300, 100), Box(60, 360, 300, 100)
    note = Box(40, 40, 300, 100)
    settle([note, first, second], [frame(40, 130, 340, 350)])
    assert (first.y, second.y) == (240, 400)


def test_a_narrow_box_pushes_right_what_it_would_cover():
    narrow, beside, far = Box(0, 0, 160, 60), Box(200, 0, 300, 60), Box(600, 0, 300, 60)
    (around,) = widen([narrow, beside, far], [frame(-20, -70, 1000, 200)])
    assert narrow.width == NARROWEST_PX
    assert (beside.x, far.x) == (270, 670)
    assert around["bounding"] == [-20, -70, 1070, 200]


def test_a_narrow_box_with_space_beside_it_pushes_nothing():
    narrow, far = Box(0, 0, 160, 60), Box(600, 0, 300, 60)
    widen([narrow, far], [])
    assert (narrow.width, far.x) == (NARROWEST_PX, 600)


def test_a_text_takes_more_room_than_a_number():
    number, text = ("INT", {}), ("STRING", {"multiline": True})
    assert height_of(1, 1, [text], has_badge=False) > height_of(1, 1, [number], has_badge=False)
    assert height_of(1, 5, [number], has_badge=True) > height_of(1, 1, [number], has_badge=False)
