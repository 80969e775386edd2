"""Processes that take turns, and what is made of their rows."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from harness import interleaved, store
from harness.interleaved import ask_once, median, ratio, take_turns

WORKER = """
import sys
sys.path.append({place!r})
from harness.interleaved import tell
print("what ComfyUI prints is no row")
for number, _ in enumerate(sys.stdin):
    tell(name={name!r}, number=number)
"""


def command(name: str) -> list[str]:
    place = str(Path(interleaved.__file__).parents[1])
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
    monkeypatch.setattr(store, "RUNS", tmp_path)

    def measured(**asked: object) -> int:
        return store.kept_json("lag", asked, lambda: next(made))

    assert [measured(rounds=3), measured(rounds=3), measured(rounds=4)] == [1, 1, 2]
    monkeypatch.setattr(store, "processor", lambda device: "another machine")
    assert measured(rounds=3) == 3


def test_variants_of_one_process_take_turns_and_the_first_round_does_not_count() -> None:
    order: list[str] = []

    def untimed() -> None:
        order.append("plain")

    def timed() -> float:
        order.append("ours")
        return 2.5

    taken = interleaved.interleaved({"plain": untimed, "ours": timed}, "cpu", 2)
    assert order == ["plain", "ours"] * 3
    assert taken["ours"] == [2.5, 2.5]
    assert len(taken["plain"]) == 2


def test_no_round_begins_after_the_time_is_up() -> None:
    taken = interleaved.interleaved({"one": lambda: None}, "cpu", 9, seconds=0.0, fewest=2)
    assert len(taken["one"]) == 2


def test_median_and_spread_are_torchs() -> None:
    assert interleaved.describe([1.0, 2.0, 3.0, 10.0])["median"] == 2.5
    assert interleaved.paired_ratio([2.0, 9.0, 4.0], [1.0, 3.0, 4.0]) == 2.0
