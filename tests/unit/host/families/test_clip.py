"""How CLIP's text encoders lay out prompts."""

from __future__ import annotations

import torch

from conceptloom.host.families.clip import CHUNK, LAYOUT, content_of

START, END, PAD = 1, 9, 0


def test_content_is_what_stands_between_start_and_end_of_each_chunk() -> None:
    full = (START, *[5] * (CHUNK - 2), END)
    half = (START, "mug", END, 7, *[PAD] * (CHUNK - 4))  # what follows the end is padding
    content = content_of((*full, *half), END)
    assert content[:CHUNK] == (False, *[True] * (CHUNK - 2), False)
    assert content[CHUNK:] == (False, True, *[False] * (CHUNK - 2))


def test_a_start_that_looks_like_an_end_begins_a_chunk_all_the_same() -> None:
    assert content_of((END, 4, END, END), END) == (False, True, False, False)


def test_every_chunk_begins_with_a_row_that_all_prompts_have() -> None:
    found = LAYOUT.is_before(2 * CHUNK, torch.device("cpu"))
    assert found.nonzero().flatten().tolist() == [0, CHUNK]
