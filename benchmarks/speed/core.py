"""Time, memory and quality beside what a user of ComfyUI would use instead, in one run.

Masked Blended Sampler beside Set Latent Noise Mask and Differential Diffusion; Region Feature Fuser
beside conditioning masks with LoRA hooks and beside a KSampler per region; LAG beside Load LoRA;
all beside a plain KSampler. Every variant has a process of its own under ComfyUI's Python, and
those of a group take turns, a sampling run each. Finished groups are not measured again.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from harness.experiment import sheet_path
from harness.interleaved import Row, ask_once, median, ratio, take_turns, worker_command
from harness.pytest_runner import comfyui_python
from harness.results import Claim, Column, Result, Section, Table, stamp
from harness.store import kept_json
from harness.subject import Options, add_common_options

from .comfyui import (
    DTYPES,
    PRESETS,
    comfyui_version,
)
from .core_graphs import GROUPS
from .core_worker import CFG, MASKS, QUALITY, STEPS, TASKS, WAYS

PAGE, PRESET = "beside_core", "35m"
MODEL, RUNS = ("checkpoint", "preset", "dtype", "device"), ("latent", "steps", "cfg")
RUNS = ("latent", "steps", "cfg")


def command(worker: str, options: Options, python: str) -> list[str]:
    """The process of a variant."""
    given = {key: getattr(options, key) for key in (*MODEL, *RUNS, "seeds")}
    sheet = str(sheet_path(PAGE))
    return worker_command("speed.core_worker", {**given, "worker": worker, "sheet": sheet}, python)


def take_group(name: str, options: Options, python: str) -> dict[str, list[Row]]:
    """What the runs of a group took, by variant."""
    commands = {key: command(f"{name}/{key}", options, python) for key in GROUPS[name].variants}

    def on_round(turn: int) -> None:
        sys.stderr.write(f"{name}: round {turn} of {options.rounds}\n")

    return take_turns(commands, options.rounds, on_round)


def run(options: Options) -> Result:
    """Every group, and the edits."""
    if options.quick:
        options.preset, options.latent, options.steps, options.rounds = "tiny", 8, 2, 1
        options.seeds, options.groups = 0, ["lag-1"]
    python = comfyui_python()
    asked = {key: getattr(options, key) for key in (*MODEL, *RUNS, "rounds")}
    taken = {
        name: kept_json(f"{PAGE}/{name}", asked, partial(take_group, name, options, python))
        for name in options.groups
    }
    scores: list[Row] = []
    if options.seeds:
        edits = {"seeds": options.seeds, "device": options.device}
        scores = kept_json(
            f"{PAGE}/{QUALITY}",
            edits,
            lambda: ask_once(command(QUALITY, options, python))["scores"],
        )
    return result_of(taken, scores, options)


def result_of(
    taken: Mapping[str, Mapping[str, Sequence[Row]]], scores: Sequence[Row], options: Options
) -> Result:
    """A table for each group, and one for the edits."""
    model = f"preset `{options.preset}`, random weights of SD 1.5's structure"
    if options.checkpoint:
        model = f"checkpoint `{Path(options.checkpoint).name}`"
    about = (
        f"{model[0].upper()}{model[1:]}; latents {options.latent}x{options.latent}, "
        f"{options.steps} steps, cfg {options.cfg:g}. {options.rounds} rounds in turns after one "
        "that does not count, every variant in a process of its own."
    )
    sections = [timed_section(name, rows, options.device) for name, rows in taken.items()]
    made: dict[str, Any] = stamp(options.device, "one CPU thread", options.dtype)
    libraries = next(iter(next(iter(taken.values())).values()))[-1]["versions"]
    made["versions"] = {"ComfyUI": comfyui_version(), **libraries}
    picture = (f"{PAGE}.jpg", CAPTION) if scores else None
    return Result(
        **made, about=[about, NOTES],
        sections=[*sections, *([edit_section(scores, options.seeds)] if scores else [])],
        picture=picture, claims=list[Claim](),
    )  # fmt: skip


NOTES = """\
*of plain*: median over the rounds of a run's time by that of the plain run in the same round, by
the CPU's own time where it computes. *of ours*: the same by our node's, so more than 1 is slower
than ours. *peak*: the most that the process took on top of the loaded models, over all runs, the
first one included; on a GPU all that torch held there, models and all. A run is what ComfyUI does
when only the seed was changed: what does not depend on it is in its cache."""
REMARKS = {
    "mask": "The three edits draw the same region of the same encoded picture from pure noise.",
    "weave-2": "Ours and *hooks* give every region its own LoRA; with all LoRAs loaded each works "
    "in every region, which is what the others are there to prevent. A template is inverted once "
    "and then cached, together with its features; the third line inverts another one in every run. "
    "A KSampler per region draws the whole first, then each region over it (denoise 0.8, the same "
    "number of steps).",
    "lag-1": "Load LoRA changes the weights once, before the first step; LAG adds the residual in "
    "every step, where the concept is.",
    "edits": "Grey of a soft mask means two things. Ours and Set Latent Noise Mask mix: what was "
    "under it stays in part, so they suit soft seams on the outside of a thing. Differential "
    "Diffusion lets grey places join the later the darker they are, and then draws them wholly: "
    "better where a soft mask covers what is to go. But with a scheduler that goes down to the "
    "model's lowest noise level, as *normal* does here, its last step is free in black places too: "
    "more changes outside until it is pasted.",
}
CAPTION = (
    "Source and mask, then without pasting: "
    + "; ".join(way.title for way in WAYS)
    + ". Above with a hard mask, below with a soft one."
)


def timed_section(name: str, rows: Mapping[str, Sequence[Row]], device: str) -> Section:
    """A group's table; the CPU's own time counts, unless a GPU computes."""
    group, key = GROUPS[name], "cpu" if device == "cpu" else "seconds"
    found = [
        {
            "variant": group.variants[variant].title,
            "s": median(told, key),
            "of plain": ratio(told, rows["plain"], key),
            "of ours": ratio(told, rows["ours"], key),
            "peak": max(row["peak"] for row in told) / 2**20,
        }
        for variant, told in rows.items()
    ]
    table = Table(name=name, columns=COLUMNS, rows=found)
    return Section(heading=group.title, table=table, after=REMARKS.get(name, ""))


COLUMNS = (
    Column(key="variant", title="", is_text=True),
    Column(key="s", title="s a run"),
    Column(key="of plain", title="of plain"),
    Column(key="of ours", title="of ours"),
    Column(key="peak", title="peak, MiB", digits=0),
)
KINDS = ("follows", "change", "most", "pasted")


def edit_section(scores: Sequence[Row], seeds: int) -> Section:
    """How every way to edit does, with hard and with soft masks."""
    rows: list[Row] = []
    for way in WAYS:
        row: Row = {"way": way.title}
        for mask in MASKS:
            chosen = [s for s in scores if s["way"] == way.title and s["mask"] == mask]
            row[f"{mask} follows"] = statistics.mean(s["follows"] for s in chosen)
            row[f"{mask} change"] = statistics.mean(s["change"] for s in chosen)
            row[f"{mask} most"] = max(s["most"] for s in chosen)
            row[f"{mask} pasted"] = max(s["most_pasted"] for s in chosen)
        rows.append(row)
    columns = [Column(key="way", title="", is_text=True)] + [
        Column(key=f"{m} {k}", title=f"{m}: {k}", digits=2 if k in ("follows", "change") else 0)
        for m in MASKS
        for k in KINDS
    ]
    return Section(
        heading="Edits under a mask: what is drawn, and what changes elsewhere",
        text=f"TinyWorld in ComfyUI: {len(TASKS)} pictures, {seeds} seed(s) each, "
        f"{len(TASKS) * seeds} edits a cell, {STEPS} steps, cfg {CFG:g}, all of them from pure "
        "noise under a box around the thing, with a hard edge and with a soft one inside of it. "
        "*follows*: share of edits in which the judge finds the requested colour and class. "
        "*change*: mean difference outside of the mask to the source, of 255, of the decoded "
        "latents; *most*: the largest. *pasted*: the largest after compositing, which our "
        "one-piece node does by itself and core with Image Composite Masked, wired by hand.",
        table=Table(name="edits", columns=columns, rows=rows),
        after=REMARKS["edits"],
    )


def arguments(parser: argparse.ArgumentParser) -> None:
    add_common_options(parser)
    parser.add_argument("--preset", default=PRESET, choices=PRESETS, help="a random model's size")
    parser.add_argument("--checkpoint", type=Path, help="a real model in place of the preset")
    parser.add_argument("--dtype", default="fp32", choices=DTYPES)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--latent", type=int, default=16, help="cells a side of the latents")
    parser.add_argument("--steps", type=int, default=4, help="of every sampling run")
    parser.add_argument("--cfg", type=float, default=7.5)
    parser.add_argument("--rounds", type=int, default=3, help="runs of each that count")
    parser.add_argument("--groups", nargs="*", choices=GROUPS, default=list(GROUPS))
    parser.add_argument("--seeds", type=int, default=3, help="of every edit; 0 draws none")
