"""What learning cost, kept beside what was learned, so that a run that goes on still shows it."""

from __future__ import annotations

import json
import shutil
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from harness.machine import memory, processor, settle
from harness.results import Column, Row, Section, Table, Value
from harness.store import kept_concept

from conceptloom.concepts.concept import Concept
from conceptloom.host.ports import Progress
from conceptloom.training.runner import TrainingResult

GIB = 2**30


@dataclass(frozen=True, slots=True)
class Cost:
    """What one learning cost.

    Attributes:
        seconds: wall time of the optimizer steps that were made, saved states included.
        before: the same until the first of them: pictures encoded, class images drawn.
        made: steps; fewer than planned where it went on from a saved state.
        medians: name of a phase -> seconds of its median step. States are saved before a step is
            told: those few steps would weigh on a mean.
        peak: bytes, the most in use at any moment from the first picture to the concept.
        machine: what it ran on.
    """

    seconds: float
    before: float
    made: int
    planned: int
    medians: Mapping[str, float]
    peak: int
    machine: str

    @property
    def is_whole(self) -> bool:
        return self.made == self.planned


class LearningClock:
    """A learner's `progress`, which looks at the clock.

    Learners report several stages, each counted from its own first step. The steps of learning are
    reported as "phase: how it goes"; pictures that are drawn while and after it count as part of
    the step that follows, or not at all.
    """

    def __init__(self, device: str) -> None:
        memory(device, start=True)
        self._device = device
        self._began = self._since = self._now = time.perf_counter()
        self._step = self._planned = 0
        self._has_begun = False
        self._took: dict[str, list[float]] = {}  # phase -> seconds of each of its steps

    def __call__(
        self, step: int, total: int, message: str = "", preview: object | None = None
    ) -> None:
        is_learning = ":" in message
        if self._has_begun and not is_learning:
            return
        self._has_begun = is_learning
        settle(self._device)
        before, self._now = self._now, time.perf_counter()
        if step == 0 or total != self._planned or step <= self._step:
            self._since, self._took = before if step else self._now, {}
        if step:
            phase = message.partition(":")[0]
            self._took.setdefault(phase, []).append(self._now - before)
        self._step, self._planned = step, total

    def cost(self) -> Cost:
        """Of all that was told so far."""
        return Cost(
            self._now - self._since,
            self._since - self._began,
            sum(map(len, self._took.values())),
            self._planned,
            {phase: statistics.median(took) for phase, took in self._took.items()},
            memory(self._device),
            processor(self._device),
        )


def learned_concept(
    path: Path, device: str, learn: Callable[[Path, Progress], TrainingResult]
) -> Concept:
    """The concept from the file, or learned now; what that cost is kept beside it.

    Args:
        learn: takes a folder for its states and the progress to report to; only called if there is
            no file. States of every weight are several times the model: they are deleted when the
            concept is there.
    """

    def learned() -> Concept:
        clock, states = LearningClock(device), path.with_suffix(".states")
        concept = learn(states, clock).concept
        _cost_file(path).write_text(json.dumps(asdict(clock.cost())), encoding="utf-8")
        shutil.rmtree(states, ignore_errors=True)
        return concept

    return kept_concept(path, learned)


def costs_of(paths: Iterable[Path]) -> list[Cost]:
    """What the concepts of these files cost, where that was kept."""
    files = [_cost_file(path) for path in paths]
    return [Cost(**json.loads(f.read_text(encoding="utf-8"))) for f in files if f.is_file()]


def cost_section(costs: Mapping[str, Sequence[Cost]], paper: str) -> Section:
    """What learning cost.

    Args:
        costs: what was learned -> of every time that it was.
        paper: what the paper reports about its own, as a sentence.
    """
    rows: list[Row] = []
    for name, every in costs.items():
        whole = [cost for cost in every if cost.is_whole]
        if whole:
            rows.append(
                {
                    "learned": name,
                    "times": len(whole),
                    "steps": ", ".join(map(str, sorted({cost.made for cost in whole}))),
                    "step": _describe_step(whole),
                    "seconds": _spread([cost.seconds for cost in whole]),
                    "before": _spread([cost.before for cost in whole]),
                    "peak": _spread([cost.peak / GIB for cost in whole]),
                    "on": "; ".join(sorted({cost.machine for cost in whole})),
                }
            )
    stopped = sum(not cost.is_whole for every in costs.values() for cost in every)
    return Section(
        heading="What learning cost",
        text="Wall time. *A step*: the median one of each phase, so that the few after which a "
        "state is saved do not count; *all steps*: with those states; *before*: until the first "
        "step (pictures encoded, class images drawn). Peak memory: all that was in use, the base "
        f"model too. Mean ± standard deviation over the times. {paper}",
        table=Table(name="costs", columns=COST_COLUMNS, rows=rows),
        after=f"{stopped} went on from a saved state and are not in the table." if stopped else "",
    )


COST_COLUMNS = (
    Column(key="learned", title="learned", is_text=True),
    Column(key="times", title="times"),
    Column(key="steps", title="steps", is_text=True),
    Column(key="step", title="a step, ms", is_text=True),
    Column(key="seconds", title="all steps, s", digits=1),
    Column(key="before", title="before, s", digits=1),
    Column(key="peak", title="peak, GiB", digits=1),
    Column(key="on", title="on", is_text=True),
)


def _describe_step(costs: Sequence[Cost]) -> str:
    """Phases, each with the milliseconds of its step."""
    phases = list(dict.fromkeys(phase for cost in costs for phase in cost.medians))
    steps = {p: [1000 * cost.medians[p] for cost in costs if p in cost.medians] for p in phases}
    return "; ".join(f"{phase} {statistics.mean(took):.1f}" for phase, took in steps.items())


def _spread(values: Sequence[float]) -> Value:
    mean = float(np.mean(values))
    return {"mean": mean, "spread": statistics.stdev(values)} if len(values) > 1 else mean


def _cost_file(path: Path) -> Path:
    return path.with_suffix(".cost.json")
