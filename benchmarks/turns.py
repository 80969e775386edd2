"""Processes that take turns: each holds one variant and makes a run whenever it is asked to.

A process of its own gives a variant a peak of memory of its own; turns (A B C A B C ...) let
whatever else the machine does meet all of them alike, so what counts is the median of the ratios
within a round.
"""

from __future__ import annotations

import hashlib
import json
import os
import statistics
import subprocess
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

from measuring import processor

PIPE = "CONCEPTLOOM_BENCHMARK_PIPE"  # its number; the standard ones are for ComfyUI's messages
Row = dict[str, Any]


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
    commands: Mapping[str, Sequence[str]], rounds: int, told: Callable[[int], object]
) -> dict[str, list[Row]]:
    """What every command told: of one run that does not count, then of `rounds` more."""
    workers = {name: Worker(command) for name, command in commands.items()}
    rows: dict[str, list[Row]] = {name: [] for name in workers}
    try:
        for turn in range(rounds + 1):
            for name, worker in workers.items():
                rows[name].append(worker.ask())
            told(turn)
    finally:
        for worker in workers.values():
            worker.close()
    return rows


def ask_once(command: Sequence[str]) -> Row:
    """What one process tells, when it has nobody to take turns with."""
    return take_turns({"": command}, 0, lambda turn: None)[""][0]


def kept(folder: Path, name: str, asked: Mapping[str, object], make: Callable[[], Any]) -> Any:
    """What was measured before by this name with the very same options, here, or is now."""
    options = {key: str(value) for key, value in asked.items()}
    options |= {"machine": processor("cpu"), "torch": version("torch")}
    digest = hashlib.sha256(json.dumps(options).encode()).hexdigest()[:12]
    file = folder / f"{name}-{digest}.json"
    if not file.is_file():
        found = make()
        folder.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(found))
    return json.loads(file.read_text())


def median(rows: Sequence[Row], key: str) -> float:
    """Of the runs after the first, which sets everything up."""
    return statistics.median(row[key] for row in rows[1:])


def ratio(one: Sequence[Row], other: Sequence[Row], key: str) -> float:
    """Median over the rounds of the ratio within a round; the first round does not count."""
    pairs = zip(one[1:], other[1:], strict=True)
    return statistics.median(mine[key] / yours[key] for mine, yours in pairs)
