"""All five methods at real sizes, beside plain runs, compared with their targets.

Random weights of SD 1.5's, SD 2.1's and SDXL's structure, or a real checkpoint, in a process for
each model. What a target speaks of runs whole; of the other trainings `--steps` of each phase are
made and the rest is estimated from them, or all with `--whole all`. A finished part is not made
again: the same command goes on, `--report` computes nothing.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from harness.interleaved import Row, worker_command
from harness.machine import memory, processor
from harness.models import DTYPES, PRESETS, add_model_options, describe_model, open_model
from harness.results import RUNS, Claim, Column, Result, Section, Status, Table, bound, stamp
from harness.stage_timer import Stage, Stages
from harness.store import short_digest
from harness.subject import Options, add_common_options

from conceptloom.training.adapters import Scope
from conceptloom.training.phases import TOKENS, WEIGHTS

from . import real_parts as parts_of
from .real_parts import (
    DECODING,
    DRAWING,
    RESIDUALS,
    SAMPLING_STEPS,
    TEMPLATE,
    WEAVING,
    Task,
)

MODELS = ("sd15", "sd21", "sdxl")
FOLDER = RUNS / "real"
Cell = Mapping[str, Any]
Cells = Mapping[str, Cell]  # part -> what it gave

GB = 1e9  # bytes; half a gibibyte less than a card of "8 GB" has, which its driver takes
FAMILIES = {768: "sd15", 1024: "sd21", 2048: "sdxl"}  # width of the UNet's context -> family
TRAINING_PX = {"sdxl": 1024}  # side of the pictures that are learned from; else 512, the papers'
WEAVING_PX = {"sdxl": 1024}  # side of the picture that is woven; else 768, the paper's
WEAVE_TIMES = 1.5  # 768 of 512, where --pixels gives a side
LIMITS = {"sd15": 8 * GB, "sdxl": 16 * GB}  # bytes in which handles + K/V have to be learned


@dataclass(frozen=True, slots=True)
class Sides:
    """Of the pictures, in pixels."""

    training: int
    weaving: int


def sides_of(family: str, pixels: int = 0) -> Sides:
    """The papers' sizes, or a side that was asked for."""
    if pixels:
        return Sides(pixels, int(WEAVE_TIMES * pixels))
    return Sides(TRAINING_PX.get(family, 512), WEAVING_PX.get(family, 768))


HARDWARE = "H200"  # what the targets are promised for


@dataclass(frozen=True, slots=True)
class Target:
    """Seconds that a run may take on one GPU of the kind `HARDWARE`.

    Attributes:
        stages: of the part, whose seconds are added up.
        families: where it is judged.
        px: side of the pictures that it speaks of.
    """

    told: str
    part: str
    stages: tuple[str, ...]
    most: float
    paper: str
    px: int
    families: tuple[str, ...] = ("sd15", "sd21")


TARGETS = (
    Target(
        "Break-A-Scene's 800 steps", "break-a-scene", (TOKENS, WEIGHTS), 60,
        "about 4.5 min a scene, A100", 512,
    ),
    Target(
        "Personalized Residuals' 150 x 4", "residuals", (RESIDUALS,), 25, "3 min, A100", 512,
    ),
    Target(
        "weaving two concepts, 50 steps", "weave", (WEAVING, DECODING), 10, "60 s, RTX 3090", 768,
    ),
    Target(
        "the same with inverting the template", "weave", (TEMPLATE, WEAVING, DECODING), 10,
        "60 s, RTX 3090 (which part of it is not told)", 768,
    ),
)  # fmt: skip


def is_whole(part: str, family: str, whole: str) -> bool:
    """Whether a part runs all of its steps.

    Args:
        whole: "targets" (those that a target speaks of), "all" or "none".
    """
    if whole != "targets":
        return whole == "all"
    return any(target.part == part and family in target.families for target in TARGETS)


@dataclass(frozen=True, slots=True)
class Part:
    """One thing that is measured.

    Attributes:
        run: on a task.
        casts: wants float32 weights; it casts by itself.
        is_wide: at the side of the woven picture.
        families: of models that it runs on; () are all.
        is_limited: in no more memory than the family's limit, on a GPU.
    """

    run: Callable[..., Any]
    casts: bool = False
    is_wide: bool = False
    families: tuple[str, ...] = ()
    is_limited: bool = False


def parts(dtype: str = "fp32") -> dict[str, Part]:
    """Everything, ours first: plain training changes the weights of the model that it gets."""
    ours = parts_of
    kv = partial(ours.break_a_scene, scope=Scope.CROSS_ATTENTION_KV, draw=4)
    training = partial(ours.plain_training, dtype=DTYPES[dtype])
    with_clip = ("sd15", "other")  # ConceptLab's prior reads CLIP's own text encoder
    return {
        "break-a-scene": Part(ours.break_a_scene),
        "handles-kv": Part(kv, is_limited=True),
        "handles-kv-checkpointed": Part(partial(kv, checkpointing=True), is_limited=True),
        "clic": Part(ours.clic),
        "transfer": Part(ours.transfer),
        "residuals": Part(ours.residuals),
        "lag": Part(ours.lag),
        "bank": Part(ours.bank),
        "weave": Part(ours.weaving, is_wide=True),
        "conceptlab": Part(ours.conceptlab, families=with_clip),
        "plain-drawing": Part(ours.plain_drawing),
        "plain-drawing-wide": Part(ours.plain_drawing, is_wide=True),
        "plain-prior": Part(ours.plain_prior, families=with_clip),
        "plain-full": Part(partial(training, scope=Scope.FULL, rows=2), casts=True),
        "plain-kv": Part(partial(training, scope=Scope.CROSS_ATTENTION_KV, rows=2), casts=True),
        "plain-cross": Part(partial(training, scope=Scope.CROSS_ATTENTION, rows=2), casts=True),
        "plain-proj": Part(partial(training, scope=Scope.PROJ_OUT, rows=4), casts=True),
        "plain-bank": Part(partial(training, scope=Scope.CROSS_ATTENTION_KV, rows=1), casts=True),
    }


# ---------------------------------------------------------------- the process of one model


def work(options: Options) -> None:
    """Make what is not finished, first all of our own precision, then what casts by itself."""
    if options.device == "cpu":
        torch.set_num_threads(1)  # more of them burn time while they wait for each other
    every = parts(options.dtype)
    wanted = {name: every[name] for name in options.parts or every}
    for casts in (False, True):
        waiting = [n for n, part in wanted.items() if part.casts == casts]
        waiting = [name for name in waiting if not cell_path(options, name).is_file()]
        if not waiting:
            continue
        host = open_model(options, dtype="fp32" if casts else options.dtype)
        family = FAMILIES.get(host.unet.config.cross_attention_dim, "other")
        for name in waiting:
            if not wanted[name].families or family in wanted[name].families:
                make_cell(options, name, wanted[name], host, family)
        del host
        gc.collect()


def make_cell(options: Options, name: str, part: Part, host: Any, family: str) -> None:
    """Run one part and write its cell."""
    stages, sides = Stages(options.device), sides_of(family, options.pixels)
    side = sides.weaving if part.is_wide else sides.training
    most = 0 if is_whole(name, family, options.whole) else options.steps
    limit = LIMITS.get(family, 0) if part.is_limited and options.device != "cpu" else 0
    gc.collect()
    if options.device != "cpu":
        torch.cuda.empty_cache()
        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, limit / total) if limit else 1.0)
    before, failed, state = memory(options.device, start=True), "", None
    sys.stderr.write(f"{family}: {name}\n")
    try:
        state = part.run(Task(host, stages, side, most, options.sampling_steps))
    except Exception as error:  # one part that does not fit leaves the others their turn
        failed = f"{type(error).__name__}: {error}".splitlines()[0]
        traceback.print_exc()
    cell = {
        "part": name,
        "family": family,
        "model": describe_model(options, host),
        "side": side,
        "sampling_steps": options.sampling_steps,
        "stages": stages.as_json(),
        "before": before,
        "peak": memory(options.device),
        "limit": limit,
        "stepped_down": bool(getattr(state, "stepped_down", False)),
        "failed": failed,
        "where": processor(options.device),
    }
    path = cell_path(options, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_suffix(".part")
    beside.write_text(json.dumps(cell, indent=1), encoding="utf-8")
    beside.replace(path)


def cell_path(options: Options, part: str) -> Path:
    """Where a finished part with exactly these settings is."""
    model, checkpoint = options.preset, options.checkpoint
    if checkpoint is not None:
        model = [str(checkpoint.resolve()), os.path.getmtime(checkpoint)]
    settings = [model, options.device, options.dtype, options.steps, options.whole]
    settings += [options.sampling_steps, options.pixels, version("torch")]
    if options.device != "cpu":
        settings.append(processor(options.device))
    return Path(options.cells) / short_digest(settings) / f"{part}.json"


# ---------------------------------------------------------------- all models

OPTIONS = ("checkpoint", "layout", "device", "dtype", "parts", "steps", "whole", "sampling_steps",
           "pixels", "cells")  # fmt: skip


def for_model(options: Options, preset: str) -> Options:
    """The options of the process of one model."""
    return argparse.Namespace(**{**vars(options), "preset": preset})


def compute(options: Options) -> None:
    """A process of its own for the model, so that nothing of another is in its memory."""
    given = {name: getattr(options, name) for name in ("preset", *OPTIONS)}
    given["cells"] = str(options.cells)
    done = subprocess.run(worker_command("speed.real", given), check=False)
    if done.returncode:
        sys.stderr.write(f"ended with {done.returncode}; the same command goes on\n")


def run(options: Options) -> Result:
    """Every model, one after the other."""
    if options.quick:
        options.preset, options.pixels, options.whole = ["tiny"], 64, "none"
        options.steps, options.sampling_steps = 1, 2
        options.parts = options.parts or ["lag", "plain-drawing"]
    found: list[Cells] = []
    for preset in [""] if options.checkpoint is not None else options.preset or MODELS:
        model = for_model(options, preset)
        if not options.report:
            compute(model)
        paths = {name: cell_path(model, name) for name in parts()}
        finished = {name: path.read_text() for name, path in paths.items() if path.is_file()}
        found.append({name: json.loads(text) for name, text in finished.items()})
    return result_of([cells for cells in found if cells], options)


def result_of(models: Sequence[Cells], options: Options) -> Result:
    """Tables of time and memory, and which targets are met."""
    sections: list[Section] = []
    for cells in models:
        failures = [f"* {n}: {c['failed']}" for n, c in cells.items() if c["failed"]]
        sections += [
            Section(
                heading=next(iter(cells.values()))["model"],
                table=Table(name="methods", columns=COLUMNS, rows=list(method_rows(cells))),
                after="\n".join(["Not finished:", "", *failures]) if failures else "",
            ),
            Section(
                table=Table(name="plain", columns=PLAIN_COLUMNS, rows=list(plain_rows(cells))),
                heading="Plain runs",
            ),
        ]
    return Result(
        **stamp(options.device, options.dtype), about=[NOTES] if models else ["Nothing finished."],
        sections=sections, claims=[claim for cells in models for claim in claims_of(cells)],
    )  # fmt: skip


# part -> what a reader calls it, and the plain part whose step it is compared with
TITLES = {
    "break-a-scene": ("Break-A-Scene, full scope, 1 + 1 rows", "plain-full"),
    "handles-kv": ("Break-A-Scene, handles + K/V, 1 + 1 rows", "plain-kv"),
    "handles-kv-checkpointed": ("the same, recomputing activations", "plain-kv"),
    "clic": ("CLiC, learning, 1 + 1 rows", "plain-cross"),
    "transfer": ("CLiC, transfer with guidance", "plain-drawing"),
    "residuals": ("Personalized Residuals, learning, 4 rows", "plain-proj"),
    "lag": ("Personalized Residuals, LAG sampling", "plain-drawing"),
    "bank": ("Concept Weaver, learning for the bank, 1 row", "plain-bank"),
    "weave": ("Concept Weaver, two concepts", "plain-drawing-wide"),
    "conceptlab": ("ConceptLab, inventing", "plain-prior"),
}
PLAIN = {
    "plain-full": "plain fine-tuning, all weights, 2 rows",
    "plain-kv": "plain fine-tuning, cross-attention K/V, 2 rows",
    "plain-cross": "plain fine-tuning, cross-attention, 2 rows",
    "plain-proj": "plain fine-tuning, output projections, 4 rows",
    "plain-bank": "plain fine-tuning, cross-attention K/V, 1 row",
    "plain-drawing": "plain drawing (DDIM, with guidance)",
    "plain-drawing-wide": "plain drawing, at the size of the woven picture",
    "plain-prior": "the prior of ConceptLab, no gradient",
}
COMPARED = ("handles", "handles + weights", "residuals", "handle", DRAWING, WEAVING)
NOTES = """\
*s a step*: median, without the first. *plain*: the same of the plain run, in a part of its own
afterwards: fine-tuning of the same weights on as many rows (float32 weights under autocast, AdamW,
nothing of a method), or drawing of the same size. Break-A-Scene's first phase has half the rows,
for class images teach handles nothing. *whole*: seconds of the stage; with **~** not all steps
were made and the missing ones are counted as long as the made ones. A method's *sum* is from models
in memory to a concept in memory: previews, saved states and reading the model from the disk are not
in it.
*peak GB*: 10^9 bytes, largest of the whole part, with the model; on a GPU what torch allocates.
ConceptLab reads a random prior of Kandinsky 2.1's size on CLIP's text encoder (on others a tiny
one) and no UNet; nobody draws or is asked in between."""


def stages_of(cell: Cell) -> dict[str, Stage]:
    return {name: Stage(**stage) for name, stage in cell["stages"].items()}


COLUMNS = (
    Column(key="method", title="method", is_text=True),
    Column(key="stage", title="stage", is_text=True),
    Column(key="made", title="steps made", is_text=True),
    Column(key="step", title="s a step", digits=4),
    Column(key="plain", title="plain, s", digits=4),
    Column(key="ratio", title="of plain"),
    Column(key="whole", title="whole, s", is_text=True),
    Column(key="peak", title="peak GB", digits=1),
)
PLAIN_COLUMNS = (
    Column(key="run", title="plain run", is_text=True),
    Column(key="px", title="px"),
    Column(key="step", title="s a step", digits=4),
    Column(key="peak", title="peak GB", digits=1),
)


def method_rows(cells: Cells) -> Iterator[Row]:
    """A row for every stage of every method, and its sum."""
    for part, (title, plain) in TITLES.items():
        if part not in cells:
            continue
        cell, stages = cells[part], stages_of(cells[part])
        for name, stage in stages.items():
            if not stage.steps:
                continue
            made = f"{len(stage.steps)} of {stage.planned}" if stage.planned > 1 else ""
            row: Row = {"method": title, "stage": name, "made": made, "whole": whole(stage)}
            if name in COMPARED:
                row["step"] = stage.step
                if plain in cells and (found := stages_of(cells[plain])) and not cell["failed"]:
                    (reference,) = found.values()
                    if reference.steps:
                        row |= {"plain": reference.step, "ratio": stage.step / reference.step}
            yield row
            title = ""
        if not cell["failed"] and stages:
            about = "" if all(stage.is_whole for stage in stages.values()) else "~"
            total = sum(stage.whole for stage in stages.values())
            told = f"*sum* at {cell['side']} px"
            yield {"method": title, "stage": told, "whole": f"{about}{total:.1f}",
                   "peak": cell["peak"] / GB}  # fmt: skip


def plain_rows(cells: Cells) -> Iterator[Row]:
    """A row for every plain run."""
    for part, title in PLAIN.items():
        for stage in stages_of(cells[part]).values() if part in cells else ():
            if stage.steps:
                cell = cells[part]
                peak = cell["peak"] / GB
                yield {"run": title, "px": cell["side"], "step": stage.step, "peak": peak}


def whole(stage: Stage) -> str:
    return f"{'' if stage.is_whole else '~'}{stage.whole:.1f}"


def claims_of(cells: Cells) -> Iterator[Claim]:
    """Every target of a model; one that is not judged says why."""
    name = next(iter(cells.values()))["model"].split(":")[0]
    family = next(iter(cells.values()))["family"]
    for target in (t for t in TARGETS if family in t.families or family == "other"):
        says = f"{target.told} at {target.px} px, on an {HARDWARE}, {name} (paper: {target.paper})"
        yield judged(cells, target, says)
    for part in ("handles-kv", "handles-kv-checkpointed"):
        if part in cells:
            yield _memory_claim(cells[part], name, part)


def judged(cells: Cells, target: Target, says: str = "") -> Claim:
    """A target of time."""

    def open_(measure: str, found: float | None = None) -> Claim:
        return Claim(says=says, measure=f"not judged: {measure}", found=found, at_most=target.most)

    cell = cells.get(target.part)
    if cell is None:
        return open_("not run")
    if cell["failed"]:
        return Claim(says=says, status=Status.MISSED, why=cell["failed"], at_most=target.most)
    there = stages_of(cell)
    if lacking := [name for name in target.stages if name not in there]:
        return open_(f"without {', '.join(lacking)}")
    stages = [there[name] for name in target.stages]
    seconds = sum(stage.whole for stage in stages)
    if not all(stage.is_whole for stage in stages):
        return open_("not all steps were made", seconds)
    if (cell["side"], cell["sampling_steps"]) != (target.px, SAMPLING_STEPS):
        return open_(f"{cell['side']} px, {cell['sampling_steps']} sampling steps", seconds)
    if HARDWARE not in cell["where"]:
        return open_(f"promised for an {HARDWARE}", seconds)
    return bound(says, seconds, at_most=target.most, measure="seconds")


def _memory_claim(cell: Cell, name: str, part: str) -> Claim:
    """Whether training fitted; the limit was the process's own, so it is proved."""
    peak, limit = cell["peak"] / GB, cell["limit"] / GB
    way = ", recomputing" if part.endswith("checkpointed") else ""
    says = f"{TITLES['handles-kv'][0]}{way}, {name}: GB in use"
    if not limit:
        return Claim(says=says, found=peak, measure="not judged: no limit set here")
    if cell["failed"]:
        return Claim(says=says, status=Status.MISSED, why=cell["failed"], at_most=limit)
    down = "after stepping down once" if cell["stepped_down"] else ""
    return Claim(says=says, found=peak, at_most=limit, status=Status.MET, measure=down)


def arguments(parser: argparse.ArgumentParser) -> None:
    add_common_options(parser)
    parser.add_argument("--preset", nargs="*", choices=list(PRESETS), help=f"default: {MODELS}")
    add_model_options(parser)
    parser.add_argument("--parts", nargs="*", choices=list(parts()), help="default: all")
    parser.add_argument("--steps", type=int, default=40, help="of a phase that is not run whole")
    parser.add_argument("--whole", choices=["targets", "all", "none"], default="targets")
    parser.add_argument("--sampling-steps", type=int, default=SAMPLING_STEPS)
    parser.add_argument("--pixels", type=int, default=0, help="side; default: the papers'")
    parser.add_argument("--cells", type=Path, default=FOLDER, help="where finished parts are")
    parser.add_argument("--report", action="store_true", help="compute nothing")


def is_usual(options: Options) -> bool:
    """Whether the result is the repository's."""
    return options.device != "cpu" and not options.parts
