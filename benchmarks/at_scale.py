"""Time and memory of all five methods at the real sizes, beside plain runs, against the targets.

    python benchmarks/at_scale.py --device cuda --dtype bf16 --page docs/results/at_scale.md
    python benchmarks/at_scale.py --device cuda --dtype bf16 --checkpoint sd15.safetensors \\
        --layout FOLDER
    python benchmarks/at_scale.py --preset tiny --pixels 64 --steps 2 --sampling-steps 2 \\
        --whole none

Random weights of SD 1.5's, SD 2.1's and SDXL's structure, or a real checkpoint, in a process for
each model. What a target speaks of runs whole; of the other trainings `--steps` of each phase are
made and the rest is told from them, or all with `--whole all`. What is finished stands in a folder
below `runs/` and is not made again: the same command goes on, `--report` computes nothing. A page
is only written where one is asked for.
"""

from __future__ import annotations

import argparse
import gc
import hashlib
import json
import os
import shlex
import subprocess
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from at_scale_page import page
from at_scale_plan import FAMILIES, LIMITS, SAMPLING_STEPS, is_whole, sides_of
from base_model import DTYPES, add_model_options, describe_model, model_arguments, open_model
from measuring import memory, processor, versions
from models import PRESETS

ROOT = Path(__file__).resolve().parent.parent
CELLS = ROOT / "runs" / "at_scale"
MODELS = ("sd15", "sd21", "sdxl")


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", nargs="*", choices=list(PRESETS), help=f"default: {MODELS}")
    add_model_options(parser)
    parser.add_argument("--parts", nargs="*", choices=list(parts()), help="default: all")
    parser.add_argument("--steps", type=int, default=40, help="of a phase that is not run whole")
    parser.add_argument("--whole", choices=["targets", "all", "none"], default="targets")
    parser.add_argument("--sampling-steps", type=int, default=SAMPLING_STEPS)
    parser.add_argument("--pixels", type=int, default=0, help="side; default: the papers'")
    parser.add_argument("--cells", type=Path, default=CELLS, help="where finished parts stand")
    parser.add_argument("--page", type=Path, help="write the results there")
    parser.add_argument("--report", action="store_true", help="compute nothing")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args(argv)


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
    import at_scale_parts as ours
    import at_scale_plain as plain

    from conceptloom.training.adapters import Scope

    kv = partial(ours.break_a_scene, scope=Scope.CROSS_ATTENTION_KV, draw=4)
    training = partial(plain.plain_training, dtype=DTYPES[dtype])
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
        "conceptlab": Part(plain.conceptlab, families=with_clip),
        "plain-drawing": Part(plain.plain_drawing),
        "plain-drawing-wide": Part(plain.plain_drawing, is_wide=True),
        "plain-prior": Part(plain.plain_prior, families=with_clip),
        "plain-full": Part(partial(training, scope=Scope.FULL, rows=2), casts=True),
        "plain-kv": Part(partial(training, scope=Scope.CROSS_ATTENTION_KV, rows=2), casts=True),
        "plain-cross": Part(partial(training, scope=Scope.CROSS_ATTENTION, rows=2), casts=True),
        "plain-proj": Part(partial(training, scope=Scope.PROJ_OUT, rows=4), casts=True),
        "plain-bank": Part(partial(training, scope=Scope.CROSS_ATTENTION_KV, rows=1), casts=True),
    }


# ---------------------------------------------------------------- the process of one model


def work(options: argparse.Namespace) -> None:
    """Make what is not finished, first all of our own precision, then what casts by itself."""
    import torch

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
                _make(options, name, wanted[name], host, family)
        del host
        gc.collect()


def _make(options: argparse.Namespace, name: str, part: Part, host: Any, family: str) -> None:
    """Run one part and write its cell."""
    import torch
    from at_scale_parts import Task
    from stages import Stages

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
        "versions": versions(),
        "date": f"{date.today():%d %B %Y}",
        "dtype": options.dtype,
    }
    path = cell_path(options, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_suffix(".part")
    beside.write_text(json.dumps(cell, indent=1), encoding="utf-8")
    beside.replace(path)


def cell_path(options: argparse.Namespace, part: str) -> Path:
    """Where a finished part of these very settings stands."""
    model, checkpoint = options.preset, options.checkpoint
    if checkpoint is not None:
        model = [str(checkpoint.resolve()), os.path.getmtime(checkpoint)]
    settings = [model, options.device, options.dtype, options.steps, options.whole]
    settings += [options.sampling_steps, options.pixels, version("torch")]
    if options.device != "cpu":
        settings.append(processor(options.device))
    key = hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:12]
    return options.cells / key / f"{part}.json"


# ---------------------------------------------------------------- all models


def for_model(options: argparse.Namespace, preset: str) -> argparse.Namespace:
    """The options of the process of one model."""
    return argparse.Namespace(**{**vars(options), "preset": preset})


def compute(options: argparse.Namespace) -> None:
    """A process of its own for the model, so that nothing of another is in its memory."""
    command = [sys.executable, __file__, "--worker", *model_arguments(options)]
    for name in ("steps", "whole", "sampling_steps", "pixels", "cells"):
        command += [f"--{name.replace('_', '-')}", str(getattr(options, name))]
    if options.parts:
        command += ["--parts", *options.parts]
    done = subprocess.run(command, check=False)
    if done.returncode:
        sys.stderr.write(f"ended with {done.returncode}; the same command goes on\n")


def main() -> None:
    options = arguments()
    if options.worker:
        work(for_model(options, (options.preset or [""])[0]))
        return
    found: list[dict[str, dict[str, Any]]] = []
    for preset in [""] if options.checkpoint is not None else options.preset or MODELS:
        model = for_model(options, preset)
        if not options.report:
            compute(model)
        paths = {name: cell_path(model, name) for name in parts()}
        finished = {name: path.read_text() for name, path in paths.items() if path.is_file()}
        found.append({name: json.loads(text) for name, text in finished.items()})
    text = page([cells for cells in found if cells], shlex.join(sys.argv))
    if options.page:
        options.page.parent.mkdir(parents=True, exist_ok=True)
        options.page.write_text(text, encoding="utf-8")
    sys.stdout.write(text)


if __name__ == "__main__":
    main()
