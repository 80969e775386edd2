"""The gates: prompts that repeat, a table that tells which side of a gate a figure is on."""

from __future__ import annotations

import torch

from conceptloom.tinyworld.gate_figures import Gate, last_token, prompts_of, read, rendered
from conceptloom.tinyworld.oracle import load_oracle


def test_gates_have_a_side() -> None:
    assert Gate(name="colour", reached=95, asked=95).passed
    assert not Gate(name="colour", reached=94.9, asked=95).passed
    assert Gate(name="file", reached=11, asked=12, at_most=True).passed


def test_prompts_repeat_and_name_what_they_ask() -> None:
    asked = prompts_of(5, 2, 3)
    assert asked == prompts_of(5, 2, 3)
    for prompt, wanted, _ in asked:
        assert len({colour for colour, _ in wanted}) == 2
        assert all(f"{colour} {shape}" in prompt for colour, shape in wanted)


def test_last_token_of_a_word_of_several_tokens() -> None:
    # "an" is an article here and the end of "cy-an" there
    assert last_token([1, 550, 7, 1470, 550, 9], [1470, 550]) == 4
    assert last_token([1, 550, 7], [550]) == 1


def test_oracle_reads_true_pictures_nearly_always() -> None:
    for objects in (1, 2):
        asked = prompts_of(16, objects, 5)
        reading = read(load_oracle(), rendered(asked, 64), asked)
        assert reading.both >= 0.85
        assert reading.background == 1.0


def test_a_blank_picture_reads_as_nothing() -> None:
    asked = prompts_of(2, 1, 0)
    reading = read(load_oracle(), [torch.full((64, 64, 3), 0.96)] * 2, asked)
    assert (reading.colour, reading.shape, reading.both) == (0.0, 0.0, 0.0)
