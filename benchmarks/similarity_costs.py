"""What learning cost, kept beside what was learned, so that a run that goes on still tells it."""

from __future__ import annotations

import json
import shutil
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from measuring import memory, processor, settle

from conceptloom.concepts.concept import Concept
from conceptloom.concepts.concept_file import load_concept, save_concept
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


def kept_concept(
    path: Path, device: str, learn: Callable[[Path, Progress], TrainingResult]
) -> Concept:
    """The concept from the file, or learned now; what that cost lies beside it.

    Args:
        learn: is given a folder for its states and the progress to tell of; asked only where there
            is no file. States of every weight are several times the model: they go when the
            concept is there.
    """
    if not path.is_file():
        clock, states = LearningClock(device), path.with_suffix(".states")
        found = learn(states, clock).concept
        path.parent.mkdir(parents=True, exist_ok=True)
        _cost_file(path).write_text(json.dumps(asdict(clock.cost())), encoding="utf-8")
        save_concept(found, path)
        shutil.rmtree(states, ignore_errors=True)
    return load_concept(path)


def costs_of(paths: Iterable[Path]) -> list[Cost]:
    """What the concepts of these files cost, where that was kept."""
    files = [_cost_file(path) for path in paths]
    return [Cost(**json.loads(f.read_text(encoding="utf-8"))) for f in files if f.is_file()]


def cost_lines(costs: Mapping[str, Sequence[Cost]], paper: str) -> list[str]:
    """What learning cost, as Markdown.

    Args:
        costs: what was learned -> of every time that it was.
        paper: what the paper tells of its own, as a sentence.
    """
    lines = [
        "## What learning cost",
        "",
        "Wall time. *A step*: the median one of each phase, so that the few after which a state is "
        "saved do not count; *all steps*: with those states; *before*: until the first step "
        "(pictures encoded, class images drawn). Peak memory: all that was in use, the base model "
        f"too. Mean ± standard deviation over the times. {paper}",
        "",
        "| learned | times | steps | a step, ms | all steps, s | before, s | peak, GiB | on |",
        "|---|--:|--:|--:|--:|--:|--:|---|",
    ]
    for name, every in costs.items():
        whole = [cost for cost in every if cost.is_whole]
        if not whole:
            continue
        steps = ", ".join(map(str, sorted({cost.made for cost in whole})))
        figures = [
            _describe_step(whole),
            _spread([cost.seconds for cost in whole]),
            _spread([cost.before for cost in whole]),
            _spread([cost.peak / GIB for cost in whole]),
            "; ".join(sorted({cost.machine for cost in whole})),
        ]
        lines.append(f"| {name} | {len(whole)} | {steps} | " + " | ".join(figures) + " |")
    stopped = sum(not cost.is_whole for every in costs.values() for cost in every)
    if stopped:
        lines += ["", f"{stopped} went on from a saved state and are not in the table."]
    return lines


def _describe_step(costs: Sequence[Cost]) -> str:
    """Phases, each with the milliseconds of its step."""
    phases = list(dict.fromkeys(phase for cost in costs for phase in cost.medians))
    steps = {p: [1000 * cost.medians[p] for cost in costs if p in cost.medians] for p in phases}
    return "; ".join(f"{phase} {_spread(took)}" for phase, took in steps.items())


def _spread(values: Sequence[float]) -> str:
    spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.1f}{spread}"


def _cost_file(path: Path) -> Path:
    return path.with_suffix(".cost.json")
