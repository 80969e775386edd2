"""Watching a loss."""

from __future__ import annotations

import math

import pytest
import torch

from conceptloom.training.divergence import SETTLED, DivergenceDetector, remaining


def test_the_average_by_hand() -> None:
    watch = DivergenceDetector()
    assert math.isnan(watch.smooth)
    assert math.isnan(watch.usual)
    watch.add(1.0)
    assert watch.smooth == pytest.approx(1.0)
    watch.add(3.0)
    # (0.95 * 0.05 * 1 + 0.05 * 3) / (1 - 0.95 ** 2)
    assert watch.smooth == pytest.approx(0.1975 / 0.0975)
    assert watch.usual == 2.0


def test_a_history_is_the_same_as_its_steps() -> None:
    values = [1.0, 0.5, 3.0, 0.25]
    watch, other = DivergenceDetector(values), DivergenceDetector()
    for value in values:
        other.add(value)
    assert (watch.smooth, watch.usual, watch.good_until) == (
        other.smooth,
        other.usual,
        other.good_until,
    )


@pytest.mark.parametrize(
    ("value", "told"), [(math.nan, "not a number"), (math.inf, "infinite"), (-math.inf, "infinite")]
)
def test_values_that_are_no_numbers_are_trouble_at_once(value: float, told: str) -> None:
    assert told in (DivergenceDetector().trouble(value) or "")


def test_noise_alone_is_no_explosion() -> None:
    generator = torch.Generator().manual_seed(0)
    watch = DivergenceDetector()
    for value in torch.empty(2000).log_normal_(-1, 1, generator=generator).tolist():
        assert watch.trouble(value) is None
        watch.add(value)


def test_a_single_outlier_is_no_explosion() -> None:
    watch = DivergenceDetector([1.0] * 100 + [50.0])
    assert watch.trouble(1.0) is None


def test_a_bounded_loss_may_rise_or_be_negative_and_is_always_sound() -> None:
    values = [-0.1] * SETTLED
    assert DivergenceDetector(values).has_diverged
    watch = DivergenceDetector(values, is_bounded=True)
    assert watch.trouble(0.9) is None
    assert watch.is_sound
    assert "not a number" in (watch.trouble(math.nan) or "")


def test_an_explosion_is_seen_and_where_it_began() -> None:
    watch = DivergenceDetector([1.0] * 100)
    assert watch.is_sound
    value, steps = 1.0, 0
    while watch.trouble(value) is None:
        value *= 1.5
        watch.add(value)
        steps += 1
        assert steps < 40
    assert "diverged" in (watch.trouble(value) or "")
    assert 100 <= watch.good_until < 100 + steps
    assert not watch.is_sound


def test_the_first_steps_may_be_wild() -> None:
    wild = [1e3] * 5
    assert DivergenceDetector([1e-3] * (SETTLED - 6) + wild).trouble(1.0) is None
    assert DivergenceDetector([1e-3] * 200 + wild).trouble(1.0) is not None


@pytest.mark.parametrize(
    ("seconds", "done", "left", "told"),
    [
        (5, 0, 10, "?"),
        (10, 10, 59, "59 s"),
        (10, 10, 200, "3 min 20 s"),
        (10, 10, 7260, "2 h 1 min"),
        (10, 10, 0, "0 s"),
    ],
)
def test_the_time_left(seconds: float, done: int, left: int, told: str) -> None:
    assert remaining(seconds, done, left) == told


def test_a_phase_is_watched_by_itself() -> None:
    """A loss that gains a term at the switch has not exploded."""
    watch = DivergenceDetector([1.0] * SETTLED, before=400)
    assert (watch.usual, watch.good_until, watch.is_sound) == (1.0, 400 + SETTLED, True)
    assert DivergenceDetector(before=400).good_until == 400
