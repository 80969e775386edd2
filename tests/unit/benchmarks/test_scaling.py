"""What grows with what: the series make steps, and the table counts by hand-checked numbers."""

from __future__ import annotations

import argparse

import pytest
from harness.models import open_model
from harness.report import page
from harness.subject import subject_of
from speed import scaling, scaling_series
from speed.scaling import rows_of
from speed.scaling_series import SERIES


def options(*given: str) -> argparse.Namespace:
    return subject_of("speed", "scaling").parse(given)


@pytest.fixture(scope="module")
def host():
    return open_model(options())


@pytest.mark.parametrize("name", ["residuals-batch", "lag-concepts", "weave-concepts"])
def test_a_series_makes_as_many_timed_steps_as_asked(host, name: str) -> None:
    steps = SERIES[name].make(host, 2)
    assert len(seconds := list(steps(2))) == 2
    assert all(second > 0 for second in seconds)


def test_the_first_call_fills_caches_and_does_not_count(host) -> None:
    waits = iter([3.0, 1.0, 2.0])
    passed = [0.0]

    def step() -> None:
        passed[0] += next(waits)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scaling_series, "clock_for", lambda device: lambda: passed[0])
        assert list(scaling_series.calls(host, step)(2)) == [1.0, 2.0]


def test_values_grow_so_that_peaks_are_their_own() -> None:
    for series in SERIES.values():
        assert list(series.values) == sorted(set(series.values))


def test_a_scene_has_as_many_concepts_as_asked(host, monkeypatch: pytest.MonkeyPatch) -> None:
    scenes = []

    def watched(host, scene, config):
        scenes.append(scene)
        raise StopIteration

    monkeypatch.setattr(scaling_series, "BreakAScene", watched)
    with pytest.raises(RuntimeError):
        list(SERIES["scene-concepts"].make(host, 5)(1))
    assert len(scenes[0].words) == 5


def test_time_is_by_rounds_and_memory_by_the_first_time_through() -> None:
    rows = [
        {"turn": 0, "value": 1, "seconds": 9.0, "peak": 2**20},
        {"turn": 0, "value": 2, "seconds": 9.0, "peak": 3 * 2**20},
        {"turn": 1, "value": 1, "seconds": 1.0, "peak": 7 * 2**20},
        {"turn": 1, "value": 2, "seconds": 2.0, "peak": 7 * 2**20},
        {"turn": 2, "value": 1, "seconds": 2.0, "peak": 7 * 2**20},
        {"turn": 2, "value": 2, "seconds": 8.0, "peak": 7 * 2**20},
    ]
    first, second = rows_of((1, 2), rows)
    assert first == {"value": 1, "seconds": 1.5, "time": 1.0, "peak": 1.0, "space": 1.0}
    assert second == {"value": 2, "seconds": 5.0, "time": 3.0, "peak": 3.0, "space": 3.0}


def test_the_page_has_every_series(monkeypatch: pytest.MonkeyPatch) -> None:
    def measured(options: argparse.Namespace, name: str) -> list[dict[str, float]]:
        values = SERIES[name].values
        return [{"turn": t, "value": v, "seconds": 1.0, "peak": 1} for t in (0, 1) for v in values]

    monkeypatch.setattr(scaling, "measured", measured)
    text = page(scaling.run(options("--rounds", "1")))
    assert "1 rounds of 2 steps" in text
    assert all(series.title in text for series in SERIES.values())
