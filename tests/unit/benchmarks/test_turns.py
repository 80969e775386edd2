"""Processes that take turns, and what is made of their rows."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import turns
from turns import ask_once, median, ratio, take_turns

WORKER = """
import sys
sys.path.append({place!r})
from turns import tell
print("what ComfyUI prints is no row")
for number, _ in enumerate(sys.stdin):
    tell(name={name!r}, number=number)
"""


def command(name: str) -> list[str]:
    place = str(Path(turns.__file__).parent)
    return [sys.executable, "-c", WORKER.format(place=place, name=name)]


def test_workers_are_asked_one_after_the_other_in_every_round() -> None:
    rounds: list[int] = []
    names = [f"worker {i}" for i in range(12)]
    rows = take_turns({name: command(name) for name in names}, 2, rounds.append)
    assert rounds == [0, 1, 2]
    assert list(rows) == names
    assert rows["worker 3"] == [{"name": "worker 3", "number": i} for i in range(3)]


def test_one_process_alone_is_asked_once() -> None:
    assert ask_once(command("alone")) == {"name": "alone", "number": 0}


def test_a_worker_that_ends_early_ends_the_run_in_words() -> None:
    with pytest.raises(SystemExit, match="ended early; run it with SHOW=1"):
        take_turns({"good": command("good"), "bad": [sys.executable, "-c", ""]}, 1, print)


def test_the_first_round_counts_for_nothing_and_ratios_are_within_rounds() -> None:
    plain = [{"cpu": value} for value in (100.0, 1.0, 2.0, 4.0)]
    other = [{"cpu": value} for value in (1.0, 3.0, 4.0, 4.0)]
    assert median(other, "cpu") == 4
    assert ratio(other, plain, "cpu") == 2  # of 3, 2 and 1


def test_what_was_measured_is_kept_for_this_machine_and_these_options(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = iter([1, 2, 3])

    def measured(**asked: object) -> int:
        return turns.kept(tmp_path, "lag", asked, lambda: next(made))

    assert [measured(rounds=3), measured(rounds=3), measured(rounds=4)] == [1, 1, 2]
    monkeypatch.setattr(turns, "processor", lambda device: "another machine")
    assert measured(rounds=3) == 3
