"""The page of beside_core.py."""

from __future__ import annotations

import argparse
import platform
import shlex
import statistics
import sys
from collections.abc import Iterator, Mapping, Sequence
from datetime import date

from beside_quality import CFG, MASKS, STEPS, TASKS, WAYS
from beside_variants import GROUPS
from measuring import processor
from turns import Row, median, ratio

Rows = Sequence[Row]
NOTES = """\
*of plain*: median over the rounds of a run's time by that of the plain run in the same round, by
the CPU's own time where it computes. *of ours*: the same by our node's, so more than 1 is slower
than ours. *peak*: the most that the process took on top of the loaded models, over all runs, the
first one included; on a GPU all that torch held there, models and all. A run is what ComfyUI does
when the seed alone was changed: what does not depend on it is in its cache.
"""
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


def page(
    taken: Mapping[str, Mapping[str, Rows]],
    scores: Rows,
    options: argparse.Namespace,
    version: str,
) -> str:
    """Everything as Markdown; `version` is ComfyUI's."""
    import torch

    model = f"preset `{options.preset}`, random weights of SD 1.5's structure"
    if options.checkpoint:
        model = f"checkpoint `{options.checkpoint.name}`"
    command = shlex.join(["python", "benchmarks/beside_core.py", *sys.argv[1:]])
    lines = [
        "# Beside what a user of ComfyUI would pick instead",
        "",
        f"    COMFYUI_PATH=~/comfy/ComfyUI {command}",
        "",
        f"{date.today()}, {processor(options.device)}, ComfyUI {version}, Python "
        f"{platform.python_version()}, torch {torch.__version__}, {options.device}, "
        f"{options.dtype}; {model}; latents {options.latent}x{options.latent}, {options.steps} "
        f"steps, cfg {options.cfg:g}. {options.rounds} rounds in turns after one that does not "
        "count, every variant in a process of its own, one CPU thread.",
        "",
        NOTES,
    ]
    for name, rows in taken.items():
        lines += [*_timed(name, rows, options.device), ""]
        if name in REMARKS:
            lines += [REMARKS[name], ""]
    if scores:
        lines += [*_edited(scores, options), ""]
    return "\n".join(lines)


def _timed(name: str, rows: Mapping[str, Rows], device: str) -> Iterator[str]:
    """A group's table; the CPU's own time counts, unless a GPU computes."""
    group, key = GROUPS[name], "cpu" if device == "cpu" else "seconds"
    yield from (f"## {group.title}", "")
    yield "| | s a run | of plain | of ours | peak, MiB |"
    yield "|---|--:|--:|--:|--:|"
    for variant, told in rows.items():
        shares = [ratio(told, rows[other], key) for other in ("plain", "ours")]
        cells = [group.variants[variant].title, f"{median(told, key):.2f}"]
        cells += [*(f"{share:.2f}" for share in shares)]
        cells.append(f"{max(row['peak'] for row in told) / 2**20:.0f}")
        yield "| " + " | ".join(cells) + " |"


def _edited(scores: Rows, options: argparse.Namespace) -> Iterator[str]:
    count = len(TASKS) * options.seeds
    yield from ("## Edits under a mask: what is drawn, and what changes elsewhere", "")
    yield (
        f"TinyWorld in ComfyUI: {len(TASKS)} pictures, {options.seeds} seed(s) each, {count} edits "
        f"a cell, {STEPS} steps, cfg {CFG:g}, all of them from pure noise under a box around the "
        "thing, with a hard edge and with a soft one inside of it. *follows*: share of edits in "
        "which the oracle finds the colour and the shape that were asked for. *change*: mean "
        "difference outside of the mask to the source, of 255, of the decoded latents; *most*: the "
        "largest. *pasted*: the largest after compositing, which our one-piece node does by itself "
        "and core with Image Composite Masked, wired by hand."
    )
    yield from ("", "| | " + " | ".join(_HEAD) + " |", "|---|" + "--:|" * len(_HEAD))
    for way in WAYS:
        cells = [way.title]
        for mask in MASKS:
            chosen = [s for s in scores if s["way"] == way.title and s["mask"] == mask]
            cells += [
                f"{statistics.mean(s['follows'] for s in chosen):.2f}",
                f"{statistics.mean(s['change'] for s in chosen):.2f}",
                f"{max(s['most'] for s in chosen):.0f}",
                f"{max(s['most_pasted'] for s in chosen):.0f}",
            ]
        yield "| " + " | ".join(cells) + " |"
    yield ""
    yield REMARKS["edits"]
    order = "; ".join(way.title for way in WAYS)
    yield ""
    yield (
        f"![Edits]({options.out.with_suffix('.jpg').name}) Source and mask, then without pasting: "
        f"{order}. Above with a hard mask, below with a soft one."
    )


_HEAD = [f"{kind}: {what}" for kind in MASKS for what in ("follows", "change", "most", "pasted")]
