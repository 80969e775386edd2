"""What learning costs: told of the steps alone, and kept with what was learned."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
import torch
from harness.results import Row
from similarity import costs
from similarity.costs import Cost, LearningClock, cost_section, costs_of, learned_concept

from conceptloom.concepts.concept import Concept
from conceptloom.host.ports import Progress
from conceptloom.training.runner import TrainingResult

CLASSES = "drawing class images of 'a photo'"


def clock_that_saw(
    told: Sequence[tuple[float, int, int]],
    monkeypatch: pytest.MonkeyPatch,
    message: Callable[[int], str] = lambda step: "",
) -> LearningClock:
    """A clock that starts at 0 s and was told of (second, step, total), and `message` of a step."""
    seconds: Iterator[float] = iter([0.0, *(second for second, _, _ in told)])
    with monkeypatch.context() as patch:
        patch.setattr(costs.time, "perf_counter", lambda: next(seconds))
        clock = LearningClock("cpu")
        for _, step, total in told:
            clock(step, total, message(step))
    return clock


def row_of(cost: Cost) -> Row:
    (row,) = cost_section({"it": [cost]}, "").table.rows
    return row


def test_class_images_are_before_and_steps_are_learning(monkeypatch: pytest.MonkeyPatch) -> None:
    told = [(1, 0, 3), (5, 4, 8), (9, 8, 8), (11, 1, 3), (12, 2, 3), (14, 3, 3)]
    cost = clock_that_saw(told, monkeypatch).cost()
    assert (cost.before, cost.seconds) == (9, 5)
    assert (cost.made, cost.planned, cost.is_whole) == (3, 3, True)
    assert cost.peak > 0


def test_as_many_class_images_as_steps_are_not_taken_for_steps(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told = [(1, 0, 2), (3, 1, 2), (6, 2, 2), (7, 1, 2), (9, 2, 2)]
    cost = clock_that_saw(told, monkeypatch).cost()
    assert (cost.before, cost.seconds, cost.made) == (6, 3, 2)


def test_a_state_that_is_saved_between_two_steps_is_in_the_whole_and_in_no_step(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told = [(1, 0, 5), (3, 1, 5), (5, 2, 5), (107, 3, 5), (109, 4, 5), (111, 5, 5)]
    cost = clock_that_saw(told, monkeypatch, lambda step: f"all: loss {step}").cost()
    assert (cost.seconds, dict(cost.medians)) == (110, {"all": 2})
    row = row_of(cost)
    assert (row["times"], row["steps"], row["step"]) == (1, "5", "all 2000.0")
    assert row["seconds"] == 110.0


def test_phases_that_take_unlike_long_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    told = [(1, 0, 4), (2, 1, 4), (3, 2, 4), (6, 3, 4), (9, 4, 4)]

    def message(step: int) -> str:
        return f"{'handles' if step < 3 else 'weights'}: loss 0.1"

    cost = clock_that_saw(told, monkeypatch, message).cost()
    row = row_of(cost)
    assert (row["step"], row["seconds"]) == ("handles 1000.0; weights 3000.0", 8.0)


def test_class_images_leave_no_step_in_the_median(monkeypatch: pytest.MonkeyPatch) -> None:
    told = [(1, 0, 3), (5, 4, 8), (9, 8, 8), (11, 1, 3), (12, 2, 3), (14, 3, 3)]
    cost = clock_that_saw(told, monkeypatch).cost()
    assert cost.medians == {"": 2}


def test_a_learning_that_went_on_is_no_whole_one(monkeypatch: pytest.MonkeyPatch) -> None:
    cost = clock_that_saw([(1, 0, 5), (3, 4, 5), (4, 5, 5)], monkeypatch).cost()
    assert (cost.before, cost.seconds) == (1, 3)
    assert (cost.made, cost.planned, cost.is_whole) == (2, 5, False)


def test_the_table_is_of_whole_learnings_and_tells_of_the_others() -> None:
    gib = 2**30
    whole = [
        Cost(10, 4, 800, 800, {"all": 0.0125}, 2 * gib, "H200"),
        Cost(12, 6, 800, 800, {"all": 0.015}, 4 * gib, "H200"),
    ]
    stopped = Cost(99, 0, 3, 800, {"all": 33}, gib, "H200")
    section = cost_section({"it": [*whole, stopped], "base": []}, "A paper.")
    (row,) = section.table.rows
    assert (row["learned"], row["times"], row["step"]) == ("it", 2, "all 13.8")
    assert row["seconds"] == {"mean": 11.0, "spread": pytest.approx(2**0.5)}
    assert (row["peak"]["mean"], row["on"]) == (3.0, "H200")
    assert section.after.startswith("1 went on from a saved state")


def test_a_concept_is_learned_once_and_keeps_what_it_cost(tmp_path: Path) -> None:
    concept = Concept(handles={"my-mug": {"clip_l": torch.ones(1, 2)}}, base="b", method="m")
    path = tmp_path / "deep" / "it.concept.safetensors"
    asked: list[Progress] = []

    def learn(states: Path, progress: Progress) -> TrainingResult:
        asked.append(progress)
        states.mkdir(parents=True)
        (states / "state.safetensors").write_text("as large as it gets")
        for step in range(3):
            progress(step, 2, "")
        return TrainingResult(concept, [], None, None, None)

    for _ in range(2):
        assert learned_concept(path, "cpu", learn).names == concept.names
    (cost,) = costs_of([path, tmp_path / "another.concept.safetensors"])
    assert (len(asked), cost.made, cost.planned) == (1, 2, 2)
    left = {file.name for file in path.parent.iterdir()}
    assert left == {"it.concept.safetensors", "it.concept.cost.json"}
