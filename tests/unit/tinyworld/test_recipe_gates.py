"""The gates: prompts that repeat, readings that can fail, a table of them."""

from __future__ import annotations

import pytest
import torch

from conceptloom.tinyworld.judge.judge import WEIGHTS, load_judge
from conceptloom.tinyworld.recipe.gate_figures import (
    Gate,
    last_token,
    prompts_of,
    read,
    true_pictures,
)
from conceptloom.tinyworld.recipe.gates import table


def test_prompts_repeat_and_name_what_they_ask() -> None:
    prompts = prompts_of(6, 2, 3)
    assert prompts == prompts_of(6, 2, 3)
    for prompt in prompts:
        assert len({colour for colour, _ in prompt.objects}) == 2
        assert len({kind for _, kind in prompt.objects}) == 2
        assert all(f"{colour} {kind}" in prompt.text for colour, kind in prompt.objects)


def test_last_token_of_a_word_of_several_tokens() -> None:
    # "an" is an article here and the end of "cy-an" there
    assert last_token([1, 550, 7, 1470, 550, 9], [1470, 550]) == 4
    assert last_token([1, 550, 7], [550]) == 1


needs_judge = pytest.mark.skipif(
    not WEIGHTS.is_file(),
    reason="the judge is not trained yet: python -m conceptloom.tinyworld.recipe.judge",
)


@needs_judge
def test_the_judge_reads_true_pictures_nearly_always() -> None:
    for objects in (1, 2):
        prompts = prompts_of(24, objects, 5)
        pictures = true_pictures(prompts, 128)
        reading = read(load_judge(), pictures, prompts)
        assert reading.kind >= 0.95
        assert reading.both >= 0.85
        assert reading.background >= 0.95
        assert read(load_judge(), pictures[1:] + pictures[:1], prompts).kind < 0.5


@needs_judge
def test_a_blank_picture_reads_as_nothing() -> None:
    reading = read(load_judge(), [torch.full((128, 128, 3), 0.96)] * 2, prompts_of(2, 1, 0))
    assert (reading.colour, reading.kind, reading.both) == (0.0, 0.0, 0.0)


def test_the_table_tells_which_side_of_a_gate_a_figure_is_on() -> None:
    gates = [
        Gate(name="class", reached=96, asked=95, ceiling=99.5),
        Gate(name="file", reached=17, asked=16, unit="MB", at_most=True),
    ]
    rows = table({"gates": [vars(g) | {"passed": g.passed} for g in gates]}).splitlines()
    assert rows[2] == "| class | 95 % | 96 % | 99.5 % | yes |"
    assert rows[3] == "| file | at most 16 MB | 17 MB |  | **no** |"
