"""All models and methods on one CUDA card in nine minutes: seconds, memory, targets.

SD 1.5, SDXL, Anima and Z-Image with random weights in bfloat16, a process for each, also compiled
and in float8. Every cell has a budget of seconds; steps that are missing then are counted as long
as the made ones. A cell is written as soon as it is finished, so a run that is killed keeps what it
has, and the same command goes on. `--report` computes nothing.
"""

from __future__ import annotations

import argparse
import gc
import json
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from claims.targets import HARDWARE, TARGETS, Target
from harness.full_size import MODELS, TITLES, UNETS, full_size
from harness.interleaved import Row, worker_command
from harness.machine import memory, processor
from harness.pytest_runner import host_python
from harness.results import RUNS, Claim, Column, Result, Section, Table, bound, stamp
from harness.stage_timer import Stage, Stages
from harness.store import short_digest
from harness.subject import Options, add_common_options

from conceptloom.training.adapters import Scope

from . import gpu_parts as parts
from .gpu_parts import DRAWING, SAMPLING_STEPS, Task

FOLDER = RUNS / "gpu"
GB = 1e9  # bytes
SPARE = 10.0  # seconds that a process has beyond its budgets, beside opening its model
OPENING = 45.0  # seconds: imports, and billions of random numbers


@dataclass(frozen=True, slots=True)
class Cell:
    """One thing that is measured.

    Attributes:
        seconds: its budget; a target's cell has more than the target.
        variant: "compiled", "float8" (weights of the network), or "float32" (plain training, which
            casts by itself).
        limit: bytes that the process may allocate on a GPU.
    """

    model: str
    part: str
    seconds: float
    variant: str = ""
    limit: float = 0.0

    @property
    def name(self) -> str:
        return " ".join(filter(None, (self.model, self.part, self.variant)))


# What a target speaks of comes first. All budgets together: eight minutes; most cells need less.
PLAN = (
    *(Cell("sd15", *cell) for cell in (
        ("plain", 5), ("break-a-scene", 70), ("residuals", 30), ("weave", 15), ("lag", 8),
        ("localised", 8), ("clic", 10), ("transfer", 8), ("plain-wide", 8), ("conceptlab", 10),
        ("prior", 5),
    )),
    *(Cell("sdxl", *cell) for cell in (("plain", 10), ("residuals", 12), ("lag", 10),
                                       ("localised", 10), ("weave", 20))),
    Cell("sdxl", "low-rank", 20, limit=16 * GB),
    *(Cell("anima", *cell) for cell in (("plain", 10), ("residuals", 12), ("lag", 10),
                                        ("localised", 10))),
    Cell("anima", "low-rank", 20, limit=12 * GB),
    *(Cell("zimage", *cell) for cell in (("plain", 10), ("localised", 12),
                                         ("lag", 10), ("low-rank", 15))),
    *(Cell("sdxl", part, 8, "float8") for part in ("plain", "lag", "localised")),
    *(Cell("sd15", part, 25, "compiled") for part in ("plain", "lag")),
    *(Cell("sd15", part, 6, "float32") for part in ("training, all", "training, output")),
)  # fmt: skip
_LOW_RANK = partial(parts.break_a_scene, scope=Scope.LOW_RANK, draw=4, checkpointing=True)
_TRAINING = partial(parts.plain_training, dtype=torch.bfloat16)
# part -> title, what runs, and the plain part whose step it is compared with
PARTS: Mapping[str, tuple[str, Callable[[Task], Any], str]] = {
    "plain": ("plain sampling", parts.plain_drawing, ""),
    "plain-wide": ("plain sampling, at the woven size", parts.plain_drawing, ""),
    "break-a-scene": (
        "Break-A-Scene, full scope", partial(parts.break_a_scene, draw=4), "training, all",
    ),
    "low-rank": ("Break-A-Scene, low rank, recomputing", _LOW_RANK, ""),
    "residuals": ("Personalized Residuals", parts.residuals, "training, output"),
    "lag": ("LAG sampling", parts.lag, "plain"),
    "localised": ("two localised LoRAs", parts.localised, "plain"),
    "clic": ("CLiC, learning", parts.clic, ""),
    "transfer": ("CLiC, transfer with guidance", parts.transfer, "plain"),
    "weave": ("Concept Weaver, two concepts", parts.weaving, "plain-wide"),
    "conceptlab": ("ConceptLab", parts.conceptlab, "prior"),
    "prior": ("the prior of ConceptLab, no gradient", parts.plain_prior, ""),
    "training, all": (
        "plain fine-tuning, all weights, 2 rows", partial(_TRAINING, scope=Scope.FULL, rows=2), "",
    ),
    "training, output": (
        "plain fine-tuning, output projections, 4 rows",
        partial(_TRAINING, scope=Scope.PROJ_OUT, rows=4), "",
    ),
}  # fmt: skip
WIDE = ("weave", "plain-wide")
# stages whose step is that of the plain run
COMPARED = ("handles + weights", "residuals", "handle", DRAWING, parts.WEAVING)


class BudgetSpent(Exception):
    """The seconds of a cell are over."""


class BudgetedStages(Stages):
    """A clock that ends a run at the first step behind its budget."""

    def __init__(self, device: str, seconds: float) -> None:
        super().__init__(device)
        self._until = time.perf_counter() + seconds

    def step(self, name: str) -> None:
        super().step(name)
        if time.perf_counter() > self._until:
            raise BudgetSpent


def side_of(cell: Cell, tiny: bool) -> int:
    """Of the pictures in pixels: the papers', 1024 for larger models."""
    if tiny:
        return 64 if cell.model in UNETS else 128
    if cell.model != "sd15":
        return 1024
    return 768 if cell.part in WIDE else 512


# ---------------------------------------------------------------- the process of one model


def work(options: Options) -> None:
    """Make the cells of one model and variant that are not finished."""
    if options.device == "cpu":
        torch.set_num_threads(1)
    chosen = {"model": options.model, "variant": options.variant}
    cells = [one for one in planned(options) if {k: getattr(one, k) for k in chosen} == chosen]
    dtype = "fp32" if options.variant == "float32" else "bf16"
    host = full_size(
        options.model, options.device, dtype, tiny=options.quick,
        compiled=options.variant == "compiled", in_8_bits=options.variant == "float8",
    )  # fmt: skip
    for cell in cells:
        if not cell_path(options, cell).is_file():
            measure(options, cell, host)


def measure(options: Options, cell: Cell, host: Any) -> None:
    """Run one cell and write what it gave."""
    gc.collect()
    limit = cell.limit if options.device != "cpu" else 0.0
    if options.device != "cpu":
        torch.cuda.empty_cache()
        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, limit / total) if limit else 1.0)
    sys.stderr.write(f"{cell.name}\n")
    before, failed = memory(options.device, start=True), ""
    stages, side = BudgetedStages(options.device, cell.seconds * options.times), 0
    try:
        side = side_of(cell, options.quick)
        most, steps = (1, 3) if options.quick else (0, SAMPLING_STEPS)
        PARTS[cell.part][1](Task(host, stages, side, most, steps))
    except BudgetSpent:
        pass
    except Exception as error:  # one that does not fit leaves the others their turn
        failed = f"{type(error).__name__}: {error}".splitlines()[0]
        traceback.print_exc()
    made = {
        "model": cell.model, "part": cell.part, "variant": cell.variant, "side": side,
        "stages": stages.as_json(), "before": before, "peak": memory(options.device),
        "limit": limit, "failed": failed, "where": processor(options.device),
    }  # fmt: skip
    path = cell_path(options, cell)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_suffix(".part")
    beside.write_text(json.dumps(made, indent=1), encoding="utf-8")
    beside.replace(path)


def planned(options: Options) -> list[Cell]:
    """The cells that were asked for."""
    models, wanted = options.models or MODELS, options.parts or PARTS
    return [cell for cell in PLAN if cell.model in models and cell.part in wanted]


def cell_path(options: Options, cell: Cell) -> Path:
    """Where a finished cell with exactly these settings is."""
    settings = [options.device, options.quick, options.times, version("torch")]
    if options.device != "cpu":
        settings.append(processor(options.device))
    return Path(options.cells) / short_digest(settings) / f"{cell.name.replace(' ', '-')}.json"


# ---------------------------------------------------------------- all models


def run(options: Options) -> Result:
    """One process after another, until the time is over."""
    until = time.monotonic() + options.seconds
    cells = planned(options)
    groups = groupby(cells, key=lambda cell: (cell.model, cell.variant))
    for (model, variant), group in groups if not options.report else ():
        waiting = [cell for cell in group if not cell_path(options, cell).is_file()]
        needed = OPENING + SPARE + options.times * sum(cell.seconds for cell in waiting)
        if waiting and (left := until - time.monotonic()) > SPARE:
            run_process(options, model, variant, min(needed, left))
    if not options.report and not options.quick:
        core_beside(options, until - time.monotonic())
    finished = {cell.name: cell_path(options, cell) for cell in cells}
    return result_of({n: json.loads(p.read_text()) for n, p in finished.items() if p.is_file()},
                     options)  # fmt: skip


def run_process(options: Options, model: str, variant: str, seconds: float) -> None:
    """A model's cells, in at most so many seconds."""
    names = ("device", "quick", "times", "models", "parts")
    given = {name: getattr(options, name) for name in names}
    given |= {"model": model, "variant": variant, "cells": str(options.cells)}
    try:
        done = subprocess.run(worker_command("speed.gpu", given), check=False, timeout=seconds)
        if done.returncode:
            sys.stderr.write(f"{model} {variant} ended with {done.returncode}\n")
    except subprocess.TimeoutExpired:
        sys.stderr.write(f"{model} {variant} took longer than {seconds:.0f} s\n")


def core_beside(options: Options, seconds: float) -> None:
    """Core's Train LoRA and ours, a step each in turn, where there is a ComfyUI; its own page."""
    if seconds < OPENING or host_python() is None:
        sys.stderr.write("core Train LoRA was not run: no ComfyUI, or no time\n")
        return
    command = [sys.executable, "benchmarks/run.py", "speed", "residuals", "--preset", "sd15",
               "--device", options.device, "--label", options.label or "gpu"]  # fmt: skip
    try:
        subprocess.run(command, check=False, timeout=seconds)
    except subprocess.TimeoutExpired:
        sys.stderr.write("core Train LoRA took too long\n")


COLUMNS = (
    Column(key="method", title="run", is_text=True),
    Column(key="stage", title="stage", is_text=True),
    Column(key="made", title="steps made", is_text=True),
    Column(key="step", title="s a step", digits=4),
    Column(key="ratio", title="of plain"),
    Column(key="whole", title="whole, s", is_text=True),
    Column(key="peak", title="peak GB", digits=1),
)
ABOUT = """\
*s a step*: median, without the first. *of plain*: beside the step of the plain run of the same
model and variant: sampling of the same size, or fine-tuning of the same weights on as many rows
(float32 weights under autocast). *whole*: seconds of the stage; with **~** its budget ended first,
and the missing steps are counted as long as the made ones. *peak GB*: 10^9 bytes, with the model;
on a GPU what torch allocates. Previews, saved states and reading a model from the disk are not in
it; 4 class images are drawn.""".replace("\n", " ")
Cells = Mapping[str, Mapping[str, Any]]  # name of a cell -> what it gave


def result_of(cells: Cells, options: Options) -> Result:
    """A table for each model and variant, and the targets."""
    sections: list[Section] = []
    keys = dict.fromkeys((cell["model"], cell["variant"]) for cell in cells.values())
    for model, variant in keys:
        own = {n: c for n, c in cells.items() if (c["model"], c["variant"]) == (model, variant)}
        failed = [f"* {PARTS[c['part']][0]}: {c['failed']}" for c in own.values() if c["failed"]]
        title = f"{TITLES[model]}{f', {variant}' if variant else ''}"
        table = Table(name=title, columns=COLUMNS, rows=list(rows_of(own, cells)))
        after = "\n".join(["Not finished:", "", *failed]) if failed else ""
        sections.append(Section(heading=title, table=table, after=after))
    where = next((cell["where"] for cell in cells.values()), "")
    made = stamp("cpu", "random weights, bfloat16")
    return Result(
        **{**made, "machine": ", ".join(filter(None, (where, "random weights, bfloat16")))},
        about=[ABOUT] if cells else ["Nothing finished."], sections=sections,
        claims=[judged(cells, target) for target in TARGETS],
    )  # fmt: skip


def rows_of(own: Cells, every: Cells) -> Iterator[Row]:
    """A row for every stage of every run."""
    for cell in own.values():
        title, _, plain = PARTS[cell["part"]]
        reference = plain_step(cell, plain, every)
        for name, stage in stages_of(cell).items():
            if not stage.steps:
                continue
            row: Row = {
                "method": f"{title}, {cell['side']} px", "stage": name, "step": stage.step,
                "made": f"{len(stage.steps)} of {stage.planned}",
                "whole": f"{'' if stage.is_whole else '~'}{stage.whole:.1f}",
                "peak": cell["peak"] / GB,
            }  # fmt: skip
            if reference and name in COMPARED:
                row["ratio"] = stage.step / reference
            yield row


def plain_step(cell: Mapping[str, Any], plain: str, cells: Cells) -> float:
    """Seconds of the step that a run is compared with; 0 if it was not measured."""
    for variant in (cell["variant"], "float32"):
        name = " ".join(filter(None, (cell["model"], plain, variant)))
        steps = [stage.step for stage in stages_of(cells.get(name, {})).values() if stage.steps]
        if plain and steps:
            return steps[0]
    return 0.0


def stages_of(cell: Mapping[str, Any]) -> dict[str, Stage]:
    return {name: Stage(**stage) for name, stage in cell.get("stages", {}).items()}


def judged(cells: Cells, target: Target) -> Claim:
    """A target beside what was measured; one that is not judged says why."""

    def unjudged(why: str, measured: float | None = None) -> Claim:
        return Claim(says=target.says, measure=f"not judged: {why}", found=measured,
                     at_most=target.at_most)  # fmt: skip

    cell = cells.get(" ".join(target.cell))
    if cell is None:
        return unjudged("not run")
    if HARDWARE not in cell["where"]:
        return unjudged(f"promised for an {HARDWARE}")
    if cell["failed"]:
        return bound(target.says, float("inf"), at_most=target.at_most, why=cell["failed"])
    if not target.stages:
        return bound(target.says, cell["peak"] / GB, at_most=target.at_most)
    known = stages_of(cell)
    if lacking := [name for name in target.stages if name not in known or not known[name].steps]:
        return unjudged(f"without {', '.join(lacking)}")
    stages = [known[name] for name in target.stages]
    seconds = sum(stage.whole for stage in stages)
    if not all(stage.is_whole for stage in stages):
        return unjudged("not all steps were made", seconds)
    return bound(target.says, seconds, at_most=target.at_most)


def arguments(parser: argparse.ArgumentParser) -> None:
    add_common_options(parser)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--models", nargs="*", choices=MODELS, help="default: all")
    parser.add_argument("--parts", nargs="*", choices=list(PARTS), help="default: all")
    parser.add_argument("--times", type=float, default=1.0, help="of every budget")
    parser.add_argument("--seconds", type=float, default=530.0, help="of the whole run")
    parser.add_argument("--cells", type=Path, default=FOLDER, help="where finished cells are")
    parser.add_argument("--report", action="store_true", help="compute nothing")


def is_usual(options: Options) -> bool:
    """Whether the result is the repository's."""
    return options.device != "cpu" and not options.parts and not options.models
