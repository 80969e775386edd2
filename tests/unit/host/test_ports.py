"""What the port's small parts say by themselves."""

from __future__ import annotations

import pytest
import torch

from conceptloom.host.ports import ForwardInfo, Prompt, find_run


@pytest.mark.parametrize(("level", "grid"), [(1, (13, 18)), (2, (7, 9)), (4, (4, 5)), (8, (2, 3))])
def test_grids_round_up(level: int, grid: tuple[int, int]) -> None:
    class Site:
        pass

    site = Site()
    site.downsample = level  # type: ignore[attr-defined]
    assert ForwardInfo((1, 4, 13, 18), torch.zeros(1), (True,), 77).grid(site) == grid


def test_pieces_are_found_wherever_they_stand() -> None:
    prompt = Prompt("", torch.zeros(1, 8, 2), (1, 7, 8, "mug", "mug", 7, 8, 7))
    assert prompt.find((7, 8)) == (1, 2, 5, 6)
    assert prompt.find((7,)) == (1, 5, 7)
    assert prompt.find((8, 9)) == prompt.find(()) == ()
    assert find_run((9, 7, 7, 7), (7, 7)) == (1, 2, 3)  # a position that two share counts once
    assert prompt.find_handle("mug") == (3, 4)
    assert prompt.find_handle("7") == ()  # the handle <7> is not the token 7
