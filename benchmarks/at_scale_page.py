"""The page of `at_scale.py`: tables of time and memory, and which targets are met."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from at_scale_plan import DRAWING, GB, HARDWARE, SAMPLING_STEPS, TARGETS, WEAVING, Target
from stages import Stage

Cell = Mapping[str, Any]
Cells = Mapping[str, Cell]  # part -> what it gave

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
HEAD = """\
| method | stage | steps made | s a step | plain, s | of plain | whole, s | peak GB |
|---|---|--:|--:|--:|--:|--:|--:|"""
PLAIN_HEAD = """\
| plain run | px | s a step | peak GB |
|---|--:|--:|--:|"""
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


def page(models: Sequence[Cells], command: str) -> str:
    """All models, one after the other.

    Args:
        models: of each model what is finished.
    """
    if not models:
        return "Nothing is finished yet.\n"
    first = next(iter(models[0].values()))
    lines = [
        "# All five methods at real sizes",
        "",
        f"    python {command}",
        "",
        f"{first['date']}, {first['where']}, {first['dtype']}. {first['versions']}.",
        "",
        "## Targets",
        "",
        *targets(models),
    ]
    for cells in models:
        told = next(iter(cells.values()))["model"]
        lines += ["", f"## {told}", "", HEAD, *method_rows(cells)]
        if failures := [f"* {n}: {c['failed']}" for n, c in cells.items() if c["failed"]]:
            lines += ["", "Not finished:", "", *failures]
        lines += ["", PLAIN_HEAD, *plain_rows(cells)]
    return "\n".join([*lines, "", NOTES, ""])


def method_rows(cells: Cells) -> Iterator[str]:
    """A row for every stage of every method, and its sum."""
    for part, (title, plain) in TITLES.items():
        if part not in cells:
            continue
        cell, stages = cells[part], stages_of(cells[part])
        peak = f"{cell['peak'] / GB:.1f}"
        for name, stage in stages.items():
            if not stage.steps:
                continue
            step, beside, ratio = "", "", ""
            if name in COMPARED:
                step = f"{stage.step:.4f}"
                if plain in cells and (found := stages_of(cells[plain])) and not cell["failed"]:
                    (reference,) = found.values()
                    if reference.steps:
                        beside = f"{reference.step:.4f}"
                        ratio = f"{stage.step / reference.step:.2f}"
            made = f"{len(stage.steps)} of {stage.planned}" if stage.planned > 1 else ""
            yield f"| {title} | {name} | {made} | {step} | {beside} | {ratio} | {whole(stage)} |  |"
            title = ""
        if not cell["failed"] and stages:
            about = "" if all(stage.is_whole for stage in stages.values()) else "~"
            total = sum(stage.whole for stage in stages.values())
            told = f"*sum* at {cell['side']} px"
            yield f"| {title} | {told} |  |  |  |  | {about}{total:.1f} | {peak} |"


def plain_rows(cells: Cells) -> Iterator[str]:
    for part, title in PLAIN.items():
        for stage in stages_of(cells[part]).values() if part in cells else ():
            if stage.steps:
                cell = cells[part]
                peak = f"{cell['peak'] / GB:.1f}"
                yield f"| {title} | {cell['side']} | {stage.step:.4f} | {peak} |"


def whole(stage: Stage) -> str:
    return f"{'' if stage.is_whole else '~'}{stage.whole:.1f}"


def targets(models: Sequence[Cells]) -> Iterator[str]:
    """What was promised, and what was found; "not judged" says why."""
    yield f"| promised, on an {HARDWARE} | model | found | |"
    yield "|---|---|--:|---|"
    for cells in models:
        name = next(iter(cells.values()))["model"].split(":")[0]
        family = next(iter(cells.values()))["family"]
        for target in (t for t in TARGETS if family in t.families or family == "other"):
            promised = f"{target.told} at {target.px} px in at most {target.most:g} s"
            found, verdict = judged(cells, target)
            yield f"| {promised} (paper: {target.paper}) | {name} | {found} | {verdict} |"
        for part in ("handles-kv", "handles-kv-checkpointed"):
            if part in cells:
                yield _memory_row(cells[part], TITLES["handles-kv"][0], name, part)


def judged(cells: Cells, target: Target) -> tuple[str, str]:
    """(what was found, verdict) on a target of time."""
    cell = cells.get(target.part)
    if cell is None:
        return "", "not judged: not run"
    if cell["failed"]:
        return "", f"**missed**: {cell['failed']}"
    there = stages_of(cell)
    if lacking := [name for name in target.stages if name not in there]:
        return "", f"not judged: without {', '.join(lacking)}"
    stages = [there[name] for name in target.stages]
    seconds = sum(stage.whole for stage in stages)
    if not all(stage.is_whole for stage in stages):
        return f"~{seconds:.1f} s", "not judged: not all steps were made"
    if (cell["side"], cell["sampling_steps"]) != (target.px, SAMPLING_STEPS):
        at = f"{cell['side']} px, {cell['sampling_steps']} sampling steps"
        return f"{seconds:.1f} s", f"not judged: {at}"
    if HARDWARE not in cell["where"]:
        return f"{seconds:.1f} s", f"not judged: promised for an {HARDWARE}"
    return f"{seconds:.1f} s", "met" if seconds <= target.most else "**missed**"


def _memory_row(cell: Cell, title: str, name: str, part: str) -> str:
    """Whether training fitted; the limit was the process's own, so it is proved and not told."""
    peak, limit = cell["peak"], cell["limit"]
    way = ", recomputing" if part.endswith("checkpointed") else ""
    promised = f"{title}{way}"
    if not limit:
        return f"| {promised} | {name} | {peak / GB:.1f} GB | no limit set here |"
    promised += f" within {limit / GB:g} GB"
    if cell["failed"]:
        return f"| {promised} | {name} |  | **missed**: {cell['failed']} |"
    down = ", after stepping down once" if cell["stepped_down"] else ""
    return f"| {promised} | {name} | {peak / GB:.1f} GB | met{down} |"
