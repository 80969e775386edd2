"""Time and peak memory of one training step: what benchmarks of steps have in common.

Every variant lives in a process of its own, so its peak memory is its own too. Those that are
compared take turns, a step each (A B C A B C ...), so that whatever else the machine does meets
all of them alike.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import torch
from base_model import (
    DTYPES,
    add_model_options,
    describe_model,
    latent_side,
    model_arguments,
    open_model,
    page_of,
    picture_side,
    remark_on,
)
from measuring import memory, processor, settle, versions
from step_rows import OFFICIAL, PLAIN, TIMES, Group, peak_of, ratio
from stepping import Setting, Variant
from turns import median, take_turns, tell

ROOT = Path(__file__).resolve().parent.parent
PRESET = "35m"  # whose page is the repository's


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """A benchmark of steps.

    Attributes:
        script: path of the program that is called.
        told: what it does, for --help.
        step: what a step holds, in words.
        variants: by name, in the order of the table.
        groups: names of those that take turns with each other.
        bridge: one of ours; over it those are compared that took no turns with each other.
        notes: below the table.
        findings: lines after that.
    """

    script: str
    told: str
    heading: str
    step: str
    variants: Mapping[str, Variant]
    groups: Sequence[Sequence[str]]
    bridge: str
    notes: str
    findings: Callable[[list[Group]], Iterable[str]]

    @property
    def name(self) -> str:
        return Path(self.script).stem

    @property
    def page(self) -> Path:
        return ROOT / "docs" / "results" / f"{self.name}.md"


def main(comparison: Comparison) -> None:
    options = arguments(comparison)
    if options.worker:
        work(comparison, options)
        return
    # without this, a thread that waits for another burns the time of whoever shares the cores
    os.environ["OMP_WAIT_POLICY"] = "passive"
    groups = [timed(names, comparison, options) for names in chosen_groups(comparison, options)]
    text = page(groups, comparison, options)
    if target := page_of(options, options.output, comparison.page, PRESET):
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")
    sys.stdout.write(text)


def arguments(comparison: Comparison, argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=comparison.told)
    add_model_options(parser, preset=PRESET)
    parser.add_argument("--rounds", type=int, default=7, help="steps of each variant that count")
    parser.add_argument("--threads", type=int, default=0, help="of torch on the CPU; 0 = all cores")
    defaults = [name for name, variant in comparison.variants.items() if variant.default]
    parser.add_argument(
        "--variants", nargs="*", default=defaults, choices=comparison.variants, metavar="NAME",
        help=f"of {', '.join(comparison.variants)}; by default {', '.join(defaults)}",
    )  # fmt: skip
    where = comparison.page.relative_to(ROOT)
    parser.add_argument("--output", type=Path, help=f"default: {where} for the {PRESET} preset")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def chosen_groups(comparison: Comparison, options: argparse.Namespace) -> list[list[str]]:
    """Names of those that take turns."""
    wanted = set(options.variants)
    if options.preset == "sdxl":
        wanted.discard(OFFICIAL)  # it knows one text encoder
    groups = [[name for name in group if name in wanted] for group in comparison.groups]
    return [  # without the official recipe, ours needs no turns of its own
        group
        for i, group in enumerate(groups)
        if group and not any(set(group) <= set(later) for later in groups[i + 1 :])
    ]


# ---------------------------------------------------------------- the process of one variant


def work(comparison: Comparison, options: argparse.Namespace) -> None:
    """Make a step for every line that comes in; tell what it took and its losses."""
    if options.threads:
        torch.set_num_threads(options.threads)
    variant, dtype = comparison.variants[options.worker], DTYPES[options.dtype]
    host = open_model(options, dtype="fp32" if variant.casts else options.dtype)
    before = memory(options.device, start=True)
    side, model = latent_side(host), describe_model(options, host)
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


def timed(names: Sequence[str], comparison: Comparison, options: argparse.Namespace) -> Group:
    """The steps of some variants, taken in turns."""
    given = [*model_arguments(options), "--threads", str(options.threads)]
    commands = {n: [sys.executable, comparison.script, "--worker", n, *given] for n in names}

    def told(turn: int) -> None:
        sys.stderr.write(f"{', '.join(names)}: round {turn} of {options.rounds}\n")

    return take_turns(commands, options.rounds, told)


# ---------------------------------------------------------------- the page

HEAD = """\
| variant | s | CPU s | of plain | CPU | faster than official | CPU | peak MiB | of official |
|---|--:|--:|--:|--:|--:|--:|--:|--:|"""
NOTES = """\
*s*: median of a step's wall time. *CPU*: the same for processor time, all threads together, which
other work on the machine touches less. Ratios are medians of the ratios within a round. *peak*:
largest memory of the process above what it had with the models loaded; gradients, the optimizer's
state and, with us, the float32 masters are part of it.
"""


def page(groups: list[Group], comparison: Comparison, options: argparse.Namespace) -> str:
    command = " ".join([f"python benchmarks/{comparison.name}.py", *sys.argv[1:]])
    return "\n".join(
        [
            f"# {comparison.heading}",
            "",
            f"Written by `{command}` on {date.today():%d %B %Y}.",
            "",
            f"{next(iter(groups[0].values()))[0]['model']}, {comparison.step}, {options.dtype}.",
            "",
            _machine(options),
            "",
            HEAD,
            *_rows(groups, comparison),
            "",
            NOTES,
            comparison.notes,
            *comparison.findings(groups),
            "",
            remark_on(options),
            "",
        ]
    )


def _rows(groups: list[Group], comparison: Comparison) -> Iterator[str]:
    every = {name: rows for group in reversed(groups) for name, rows in group.items()}
    for name, variant in comparison.variants.items():
        if name not in every:
            continue
        peak, cells = peak_of(every[name]), [variant.title]
        cells += [f"{median(every[name], key):.2f}" for key in TIMES]
        for one, other in ((name, PLAIN), (OFFICIAL, name)):
            found = ratio(groups, one, other, comparison.bridge)
            cells += [f"{found[key]:.2f}" if found else "" for key in TIMES]
        cells.append(f"{peak / 2**20:.0f}")
        cells.append(f"{peak / peak_of(every[OFFICIAL]):.2f}" if OFFICIAL in every else "")
        yield "| " + " | ".join(cells) + " |"


def _machine(options: argparse.Namespace) -> str:
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
