"""What grows with what: the series make steps, and the table counts by hand-checked numbers."""

from __future__ import annotations

from dataclasses import replace

import pytest
import scaling
import scaling_series
from base_model import open_model
from scaling import arguments, table
from scaling_series import SERIES


@pytest.fixture(scope="module")
def host():
    return open_model(arguments([]))


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


def test_time_is_by_rounds_and_memory_by_the_first_time_through(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(SERIES, "short", replace(SERIES["residuals-batch"], values=(1, 2)))
    rows = [
        {"turn": 0, "value": 1, "seconds": 9.0, "peak": 2**20},
        {"turn": 0, "value": 2, "seconds": 9.0, "peak": 3 * 2**20},
        {"turn": 1, "value": 1, "seconds": 1.0, "peak": 7 * 2**20},
        {"turn": 1, "value": 2, "seconds": 2.0, "peak": 7 * 2**20},
        {"turn": 2, "value": 1, "seconds": 2.0, "peak": 7 * 2**20},
        {"turn": 2, "value": 2, "seconds": 8.0, "peak": 7 * 2**20},
    ]
    assert list(table("short", rows))[2:] == [
        "| 1 | 1.500 | 1.00 | 1 | 1.00 |",
        "| 2 | 5.000 | 3.00 | 3 | 3.00 |",
    ]


def test_the_page_tells_the_command_and_every_series(
    monkeypatch: pytest.MonkeyPatch, capsys, tmp_path
) -> None:
    row = {"turn": 0, "value": 1, "seconds": 1.0, "peak": 1}

    def told(options, name):
        values = SERIES[name].values
        return [row | {"turn": t, "value": v} for t in range(2) for v in values]

    monkeypatch.setattr(scaling, "measured", told)
    out = tmp_path / "page.md"
    monkeypatch.setattr("sys.argv", ["scaling.py", "--rounds", "1", "--out", str(out)])
    scaling.main()
    text = out.read_text()
    assert "python benchmarks/scaling.py --rounds 1" in text
    assert all(series.title in text for series in SERIES.values())
