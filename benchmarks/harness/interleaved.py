"""Variants that take turns: in one process, or each in a process of its own.

Turns (A B C A B C ...) let whatever else the machine does meet all variants alike, so what counts
is the median of the ratios within a round. A process of its own also gives a variant a peak of
memory of its own.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from .machine import clock_for, settle

RUN = Path(__file__).resolve().parents[1] / "run.py"
PIPE = "CONCEPTLOOM_BENCHMARK_PIPE"  # its number; the standard ones are for ComfyUI's messages
Row = dict[str, Any]
FEWEST = 3  # rounds, however long they take


def interleaved(
    steps: Mapping[str, Callable[[], object]],
    device: str,
    rounds: int,
    seconds: float = float("inf"),
    fewest: int = FEWEST,
) -> dict[str, list[float]]:
    """Seconds of every step that counts, by variant; one round before them does not.

    Args:
        steps: a variant's step; one that returns a float has timed itself.
        seconds: after which no further round begins.
    """
    clock, taken = clock_for(device), {name: list[float]() for name in steps}
    started = clock()
    for turn in range(rounds + 1):
        if turn > fewest and clock() - started > seconds:
            break
        for name, step in steps.items():
            settle(device)
            began = clock()
            told = step()
            settle(device)
            if turn:  # the first round fills caches
                taken[name].append(told if isinstance(told, float) else clock() - began)
    return taken


def timed(step: Callable[[], object], device: str) -> float:
    """Seconds of one step."""
    clock = clock_for(device)
    settle(device)
    began = clock()
    step()
    settle(device)
    return clock() - began


def describe(times: Sequence[float]) -> dict[str, float]:
    """Median of the seconds, and their interquartile range, by torch's own statistics."""
    from torch.utils.benchmark import Measurement, TaskSpec

    task = TaskSpec(stmt="step", setup="")
    measured = Measurement(number_per_run=1, raw_times=list(times), task_spec=task)
    return {"median": measured.median, "iqr": measured.iqr if len(times) > 1 else 0.0}


def paired_ratio(times: Sequence[float], plain: Sequence[float]) -> float:
    """Median of the ratios within a round."""
    return statistics.median(a / b for a, b in zip(times, plain, strict=True))


def worker_command(
    module: str, options: Mapping[str, Any], python: str = sys.executable
) -> list[str]:
    """A process that imports `module` and calls its `work` with these options."""
    given = {key: str(v) if isinstance(v, Path) else v for key, v in options.items()}
    return [python, str(RUN), "worker", module, json.dumps(given)]


def tell(**row: Any) -> None:
    """What a run took, from a worker to the one that asked."""
    os.write(int(os.environ[PIPE]), (json.dumps(row) + "\n").encode())


class Worker:
    """One variant in its process, which reads a line for every run. SHOW=1 shows its messages."""

    def __init__(self, command: Sequence[str]) -> None:
        read, write = os.pipe()
        self.process = subprocess.Popen(
            command,
            env=os.environ | {PIPE: str(write)},
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=None if os.environ.get("SHOW") else subprocess.DEVNULL,
            pass_fds=(write,),
            text=True,
        )
        os.close(write)
        self._told = os.fdopen(read)

    def ask(self) -> Row:
        """What it tells of one more run."""
        assert self.process.stdin
        with suppress(BrokenPipeError):  # then there is no answer either
            self.process.stdin.write("run\n")
            self.process.stdin.flush()
        line = self._told.readline()
        if not line:
            raise SystemExit(f"{self.process.args} ended early; run it with SHOW=1 to see why")
        return json.loads(line)

    def close(self) -> None:
        """Let it end: there are no more lines to read."""
        self._told.close()
        self.process.communicate()


def take_turns(
    commands: Mapping[str, Sequence[str]], rounds: int, on_round: Callable[[int], object]
) -> dict[str, list[Row]]:
    """What every command told: of one run that does not count, then of `rounds` more."""
    workers = {name: Worker(command) for name, command in commands.items()}
    rows: dict[str, list[Row]] = {name: [] for name in workers}
    try:
        for turn in range(rounds + 1):
            for name, worker in workers.items():
                rows[name].append(worker.ask())
            on_round(turn)
    finally:
        for worker in workers.values():
            worker.close()
    return rows


def ask_once(command: Sequence[str]) -> Row:
    """What one process tells, when it has nobody to take turns with."""
    return take_turns({"": command}, 0, lambda turn: None)[""][0]


def median(rows: Sequence[Row], key: str) -> float:
    """Of the runs after the first, which sets everything up."""
    return statistics.median(row[key] for row in rows[1:])


def ratio(one: Sequence[Row], other: Sequence[Row], key: str) -> float:
    """Median over the rounds of the ratio within a round; the first round does not count."""
    pairs = zip(one[1:], other[1:], strict=True)
    return statistics.median(mine[key] / yours[key] for mine, yours in pairs)
