"""TinyWorld Ornament: the same object with and without its detail, and what it refuses."""

from __future__ import annotations

import pytest
import torch
from executor import Executor, node


@pytest.fixture(scope="module")
def executor() -> Executor:
    return Executor()


def render(executor: Executor, **more):
    inputs = {"object": "yellow mug", "ornament": "spiral"}
    inputs |= {"background": "white", "seed": 1, "size": 64, **more}
    outputs = {"image": ["1", 0], "mark": ["1", 1], "whole": ["1", 2]}
    return executor.run({"1": node("TinyWorldOrnament", **inputs)}, **outputs)


def test_an_object_comes_with_and_without_its_ornament(executor: Executor):
    shown, bare = render(executor), render(executor, ornament="none")
    assert shown.error == bare.error == ""
    first, second = shown.values, bare.values
    assert first["image"].shape == (1, 64, 64, 3)
    assert first["mark"].shape == first["whole"].shape == (1, 64, 64)
    assert torch.equal(first["whole"] > 0.5, second["whole"] > 0.5)
    changed = (first["image"] - second["image"]).abs().amax(dim=-1) > 0.02
    assert (changed & (first["mark"] > 0)).sum() == changed.sum() > 0
    assert (first["whole"] >= first["mark"] - 1e-6).all()


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"object": "yellow"}, "object is 'yellow'"),
        ({"object": "a yellow mug"}, "object is"),
        ({"object": "mug5"}, "object is 'mug5'"),
    ],
)
def test_what_it_does_not_know_is_reported(executor: Executor, wrong: dict, told: str):
    assert told in render(executor, **wrong).error
