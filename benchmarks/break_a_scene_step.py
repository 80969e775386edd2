"""Time and peak memory of one training step of Break-A-Scene, ours beside others.

    .venv/bin/python benchmarks/break_a_scene_step.py
    .venv/bin/python benchmarks/break_a_scene_step.py --preset sd15 --device cuda --dtype bf16

Every variant lives in a process of its own, so its peak memory is its own too. Those that are
compared take turns, a step each (A B C A B C ...), so that whatever else the machine does meets
all of them alike.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterator
from datetime import date
from pathlib import Path

from base_model import (
    DTYPES,
    add_model_options,
    latent_side,
    model_arguments,
    open_model,
    page_of,
    picture_side,
    remark_on,
    told_model,
)
from measuring import memory, processor, settle, versions
from turns import Row, median, take_turns, tell
from turns import ratio as paired

ROOT = Path(__file__).resolve().parent.parent
TIMES = ("seconds", "cpu")
PAGE = "docs/results/break_a_scene_step.md"
# The official recipe takes turns with ours alone: not every machine holds it and all the others.
GROUPS = (
    ("official", "full"),
    ("plain", "full", "kv", "low-rank", "handles", "checkpointed"),
    ("forward", "maps"),
)


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_model_options(parser, preset="35m")
    parser.add_argument("--rounds", type=int, default=7, help="steps of each variant that count")
    parser.add_argument("--threads", type=int, default=0, help="of torch on the CPU; 0 = all cores")
    parser.add_argument("--variants", nargs="*", help="by default all but checkpointed")
    parser.add_argument("--output", type=Path, help=f"default: {PAGE} for the 35m preset")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    return parser.parse_args(argv)


# ---------------------------------------------------------------- the process of one variant


def work(options: argparse.Namespace) -> None:
    """Make a step for every line that comes in; tell what it took and its losses."""
    import torch
    from variants import VARIANTS, Setting

    if options.threads:
        torch.set_num_threads(options.threads)
    variant, dtype = VARIANTS[options.worker], DTYPES[options.dtype]
    host = open_model(options, dtype="fp32" if variant.casts else options.dtype)
    before = memory(options.device, start=True)
    side, model = latent_side(host), told_model(options, host)
    model += f"; latents {side}x{side}, pictures {picture_side(host)} px"
    steps = variant.make(Setting(host, options.device, dtype))
    for _ in sys.stdin:
        wall, cpu = time.perf_counter(), time.process_time()
        losses = next(steps)
        settle(options.device)
        used = {"seconds": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
        peak = memory(options.device) - before
        tell(**used, peak=peak, losses=dict(losses), model=model)
    os._exit(0)  # our own loop waits in a thread for a step that never comes


# ---------------------------------------------------------------- taking turns

Group = dict[str, list[Row]]  # variant -> what its steps took; these took turns with each other


def timed(names: list[str], options: argparse.Namespace) -> Group:
    """The steps of some variants, taken in turns."""
    given = [*model_arguments(options), "--threads", str(options.threads)]
    commands = {name: [sys.executable, __file__, "--worker", name, *given] for name in names}

    def told(turn: int) -> None:
        sys.stderr.write(f"{', '.join(names)}: round {turn} of {options.rounds}\n")

    return take_turns(commands, options.rounds, told)


def peak_of(rows: list[Row]) -> int:
    return max(row["peak"] for row in rows)


# ---------------------------------------------------------------- the page

HEAD = """\
| variant | s | CPU s | of plain | CPU | faster than official | CPU | peak MiB | of official |
|---|--:|--:|--:|--:|--:|--:|--:|--:|"""
PROMISES = (
    ("official at least 3 times as long as ours, full scope", "official", "full"),
    ("full scope at most 1.05 of plain fine-tuning", "full", "plain"),
    ("K/V at most 0.80 of plain fine-tuning", "kv", "plain"),
    ("low-rank at most 0.80 of plain fine-tuning", "low-rank", "plain"),
    ("maps at most 1.03 of a plain forward pass", "maps", "forward"),
)
NOTES = """\
*s*: median of a step's wall time. *CPU*: the same for processor time, all threads together, which
other work on the machine touches less. Ratios are medians of the ratios within a round. *plain* is
fine-tuning of the same weights without attention loss; *official* is a plain transcription of the
official recipe. *peak*: largest memory of the process above what it had with the models loaded;
gradients, the optimizer's state and, with us, the float32 masters are part of it.
"""


def page(groups: list[Group], options: argparse.Namespace, command: str) -> str:
    return "\n".join(
        [
            "# A training step of Break-A-Scene",
            "",
            f"Written by `{command}` on {date.today():%d %B %Y}.",
            "",
            f"{next(iter(groups[0].values()))[0]['model']}, one picture and one class "
            f"picture a step, two concepts, {options.dtype}.",
            "",
            _machine(options),
            "",
            HEAD,
            *_rows(groups),
            "",
            NOTES,
            *_findings(groups),
            "",
            remark_on(options),
            "",
        ]
    )


def _rows(groups: list[Group]) -> Iterator[str]:
    from variants import VARIANTS

    every = {name: rows for group in reversed(groups) for name, rows in group.items()}
    for name, variant in VARIANTS.items():
        if name not in every:
            continue
        peak, cells = peak_of(every[name]), [variant.title]
        cells += [f"{median(every[name], key):.2f}" for key in TIMES]
        for one, other in ((name, "plain"), ("official", name)):
            found = ratio(groups, one, other)
            cells += [f"{found[key]:.2f}" if found else "" for key in TIMES]
        cells.append(f"{peak / 2**20:.0f}")
        cells.append(f"{peak / peak_of(every['official']):.2f}" if "official" in every else "")
        yield "| " + " | ".join(cells) + " |"


def ratio(groups: list[Group], name: str, other: str) -> dict[str, float] | None:
    """Median over the rounds of the ratio within a round; the first round warms up.

    Where the two took no turns with each other, both are compared with ours, full scope.
    """
    if name == other or len({name, other} & {"forward", "maps"}) == 1:
        return None  # a pass is compared with a pass
    for group in groups:
        if name in group and other in group:
            return _paired(group, name, other)
    first = next((g for g in groups if name in g and "full" in g), None)
    second = next((g for g in groups if other in g and "full" in g), None)
    if first is None or second is None:
        return None
    halves = _paired(first, name, "full"), _paired(second, "full", other)
    return {key: halves[0][key] * halves[1][key] for key in TIMES}


def _paired(group: Group, name: str, other: str) -> dict[str, float]:
    return {key: paired(group[name], group[other], key) for key in TIMES}


def _findings(groups: list[Group]) -> Iterator[str]:
    """What we promise, and what was found."""
    yield from ("| promised | wall | CPU |", "|---|--:|--:|")
    for told, name, other in PROMISES:
        if found := ratio(groups, name, other):
            yield f"| {told} | {found['seconds']:.3f} | {found['cpu']:.3f} |"
    pair = groups[0]
    if "official" in pair and "full" in pair:
        share = peak_of(pair["full"]) / peak_of(pair["official"])
        apart = largest_difference(pair["full"], pair["official"])
        yield ""
        yield f"Peak memory, promised at most 0.25 of the official recipe's: {share:.3f}."
        yield (
            f"On the same draws, every loss term of the two agrees to {apart:.0e} of its value, "
            f"over {len(pair['full'])} steps."
        )


def largest_difference(ours: list[Row], theirs: list[Row]) -> float:
    """Over all steps and loss terms, relative."""
    return max(
        abs(a["losses"][name] / value - 1)
        for a, b in zip(ours, theirs, strict=True)
        for name, value in b["losses"].items()
    )


def _machine(options: argparse.Namespace) -> str:
    import torch

    return (
        f"{processor(options.device)}, {options.threads or torch.get_num_threads()} threads; load "
        f"average {os.getloadavg()[1]:.1f}, {options.rounds} rounds. {versions()}.{_crowd()}"
    )


def _crowd() -> str:
    """A warning when others wanted the machine too."""
    load, cores = os.getloadavg()[1], os.cpu_count() or 1
    if load < cores + 1:
        return ""
    return (
        f" **Busy machine** ({load:.0f} threads wanted {cores} cores): go by the CPU columns; wall "
        "times and their ratios are of little worth here."
    )


def main() -> None:
    options = arguments()
    if options.worker:
        work(options)
        return
    from variants import VARIANTS

    wanted = options.variants or [name for name, v in VARIANTS.items() if v.default]
    if unknown := [name for name in wanted if name not in VARIANTS]:
        raise SystemExit(f"no variant {unknown[0]}; there are {', '.join(VARIANTS)}")
    if "official" in wanted and options.preset == "sdxl":
        wanted.remove("official")  # it knows one text encoder
    chosen = [[name for name in group if name in wanted] for group in GROUPS]
    if "official" not in wanted:  # then "full" is timed beside "plain" alone
        del chosen[0]
    # without this, a thread that waits for another burns the time of whoever shares the cores
    os.environ["OMP_WAIT_POLICY"] = "passive"
    groups = [timed(names, options) for names in chosen if names]
    command = " ".join(["python benchmarks/break_a_scene_step.py", *sys.argv[1:]])
    text = page(groups, options, command)
    if target := page_of(options, options.output, ROOT / PAGE, "35m"):
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")
    sys.stdout.write(text)


if __name__ == "__main__":
    main()
