"""Time and peak memory of one training step, by variant.

Every variant runs in a process of its own, so its peak memory is its own too. Those that are
compared take turns, a step each (A B C A B C ...), so that whatever else the machine does meets all
of them alike. A variant is a generator that makes a step when it is asked.
"""

from __future__ import annotations

import argparse
import os
import queue
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import torch
from harness.interleaved import Row, median, take_turns, tell, worker_command
from harness.interleaved import ratio as paired
from harness.machine import load_average, memory, settle
from harness.models import (
    DTYPES,
    add_model_options,
    describe_model,
    latent_side,
    open_model,
    picture_side,
    remark_on,
)
from harness.results import Claim, Column, Result, Section, Table, bound, stamp
from harness.subject import Options, add_common_options
from torch import nn

from conceptloom.host.diffusers import DiffusersHost
from conceptloom.training.adapters import Scope, scope_weight_names

PRESET, QUICK_PRESET = "35m", "tiny"
MODEL = ("preset", "checkpoint", "layout", "device", "dtype", "threads")
TIMES = ("seconds", "cpu")
PLAIN, OFFICIAL = "plain", "official"  # variants that all others are compared with
Group = dict[str, list[Row]]  # variant -> what its steps took; these took turns with each other
Losses = Mapping[str, float]
NO_LOSSES = ("step", "phase", "total")  # columns of the loop's rows


@dataclass(frozen=True, slots=True)
class Setting:
    """What a variant works with."""

    host: DiffusersHost
    device: str
    dtype: torch.dtype

    def autocast(self) -> Any:
        """For those who keep float32 weights and let torch cast."""
        if self.dtype == torch.float32:
            return nullcontext()
        return torch.autocast(self.device, self.dtype)

    @property
    def latent_size(self) -> tuple[int, int, int]:
        return self.host.latent_channels, latent_side(self.host), latent_side(self.host)


Make = Callable[[Setting], Iterator[Losses]]


@dataclass(frozen=True, slots=True)
class Variant:
    """One line of the table."""

    title: str
    make: Make
    casts: bool = False  # holds float32 weights and runs under autocast
    default: bool = True


class _Enough(Exception):
    """Ends a loop of which nobody asks for another step."""


def step_by_step(train: Callable[[Callable[[Losses], None]], object]) -> Iterator[Losses]:
    """A loop that calls back after every step, turned into a generator of its steps.

    Closing the generator ends the loop, which leaves the model as it leaves it after an error.
    """
    asked: queue.Queue[bool] = queue.Queue()
    made: queue.Queue[Losses] = queue.Queue()

    def on_step(row: Losses) -> None:
        made.put({name: value for name, value in row.items() if name not in NO_LOSSES})
        if not asked.get():
            raise _Enough

    def work() -> None:
        with suppress(_Enough):
            if asked.get():
                train(on_step)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        while True:
            asked.put(True)
            yield made.get()
    finally:
        asked.put(False)
        thread.join()


def unfrozen(host: DiffusersHost, scope: Scope) -> list[nn.Parameter]:
    """The weights that a scope covers, ready to learn in place; all others are frozen."""
    for network in (host.unet, *(encoder.model for encoder in host._encoders)):
        network.requires_grad_(False)
    found: list[nn.Parameter] = []
    for name in scope_weight_names(host.weight_names(), scope):
        module, attribute = host._weights[name]
        found.append(getattr(module, attribute).requires_grad_(True))
    return found


@dataclass(frozen=True, kw_only=True)
class Promise:
    """A ratio of one variant to another, and its limit."""

    says: str
    variant: str
    beside: str
    at_most: float | None = None
    at_least: float | None = None
    why: str = ""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A benchmark of steps.

    Attributes:
        module: that has this comparison as `COMPARISON`.
        step: what a step holds, in words.
        variants: by name, in the order of the table.
        groups: names of those that take turns with each other.
        bridge: one of ours; over it those are compared that took no turns with each other.
        notes: below the table.
        memory_share: of the official recipe's peak that ours may have.
    """

    module: str
    step: str
    variants: Mapping[str, Variant]
    groups: Sequence[Sequence[str]]
    bridge: str
    notes: str
    promises: Sequence[Promise] = ()
    memory_share: float | None = None


def add_step_options(parser: argparse.ArgumentParser, comparison: Comparison) -> None:
    add_common_options(parser)
    add_model_options(parser, preset=PRESET)
    parser.add_argument("--rounds", type=int, default=7, help="steps of each variant that count")
    parser.add_argument("--threads", type=int, default=0, help="of torch on the CPU; 0 = all cores")
    defaults = [name for name, variant in comparison.variants.items() if variant.default]
    parser.add_argument(
        "--variants", nargs="*", default=defaults, choices=comparison.variants, metavar="NAME",
        help=f"of {', '.join(comparison.variants)}; by default {', '.join(defaults)}",
    )  # fmt: skip


def chosen_groups(comparison: Comparison, options: Options) -> list[list[str]]:
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


def work(options: Options) -> None:
    """Make a step for every line that comes in; tell what it took and its losses."""
    if options.threads:
        torch.set_num_threads(options.threads)
    comparison = import_module(options.module).COMPARISON
    variant, dtype = comparison.variants[options.variant], DTYPES[options.dtype]
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


def take_steps(names: Sequence[str], comparison: Comparison, options: Options) -> Group:
    """The steps of some variants, taken in turns."""
    model = {name: getattr(options, name) for name in MODEL} | {"module": comparison.module}
    commands = {name: worker_command("speed.steps", {**model, "variant": name}) for name in names}

    def on_round(turn: int) -> None:
        sys.stderr.write(f"{', '.join(names)}: round {turn} of {options.rounds}\n")

    return take_turns(commands, options.rounds, on_round)


# ---------------------------------------------------------------- the result


def compare(comparison: Comparison, options: Options) -> Result:
    """Take the steps of every group, and build the result."""
    # without this, a thread that waits for another burns the time of whoever shares the cores
    os.environ["OMP_WAIT_POLICY"] = "passive"
    if options.quick:
        options.rounds, options.preset, options.threads = 1, QUICK_PRESET, 1
    groups = [
        take_steps(names, comparison, options) for names in chosen_groups(comparison, options)
    ]
    return result_of(groups, comparison, options)


def result_of(groups: Sequence[Group], comparison: Comparison, options: Options) -> Result:
    """What the steps took, set beside each other."""
    threads = f"{options.threads or torch.get_num_threads()} threads"
    model = next(iter(groups[0].values()))[0]["model"]
    about = f"{model}, {comparison.step}. {options.rounds} rounds; load average "
    notes = "\n\n".join(filter(None, (comparison.notes, *_beside_official(groups, comparison))))
    table = Table(name="steps", columns=COLUMNS, rows=list(_rows(groups, comparison)))
    return Result(
        **stamp(options.device, threads, options.dtype),
        about=[f"{about}{load_average():.1f}.", *filter(None, [remark_on(options)])],
        sections=[Section(table=table, after=f"{NOTES}\n\n{notes}")],
        claims=list(_claims(groups, comparison)),
    )  # fmt: skip


COLUMNS = (
    Column(key="variant", title="variant", is_text=True),
    Column(key="seconds", title="s"),
    Column(key="cpu", title="CPU s"),
    Column(key="plain seconds", title="of plain"),
    Column(key="plain cpu", title="CPU"),
    Column(key="official seconds", title="faster than official"),
    Column(key="official cpu", title="CPU"),
    Column(key="peak", title="peak MiB", digits=0),
    Column(key="share", title="of official"),
)
NOTES = """\
*s*: median of a step's wall time. *CPU*: the same for processor time, all threads together, which
other work on the machine touches less. Ratios are medians of the ratios within a round. *peak*:
largest memory of the process above what it had with the models loaded; gradients, the optimizer's
state and, with us, the float32 masters are part of it."""


def _rows(groups: Sequence[Group], comparison: Comparison) -> Iterator[Row]:
    every = {name: rows for group in reversed(groups) for name, rows in group.items()}
    for name, variant in comparison.variants.items():
        if name not in every:
            continue
        row: Row = {"variant": variant.title}
        row |= {key: median(every[name], key) for key in TIMES}
        for head, one, other in ((PLAIN, name, PLAIN), (OFFICIAL, OFFICIAL, name)):
            for key, value in (ratio(groups, one, other, comparison.bridge) or {}).items():
                row[f"{head} {key}"] = value
        row["peak"] = peak_of(every[name]) / 2**20
        if OFFICIAL in every:
            row["share"] = peak_of(every[name]) / peak_of(every[OFFICIAL])
        yield row


def _claims(groups: Sequence[Group], comparison: Comparison) -> Iterator[Claim]:
    """Promises, by the CPU's own time; and the share of memory."""
    for one in comparison.promises:
        found = ratio(groups, one.variant, one.beside, comparison.bridge)
        if found:
            yield bound(
                one.says, found["cpu"], at_most=one.at_most, at_least=one.at_least, why=one.why,
                measure=f"CPU time; wall {found['seconds']:.3f}",
            )  # fmt: skip
    pair = official_pair(groups, comparison.bridge)
    if pair and comparison.memory_share is not None:
        share = peak_of(pair[0]) / peak_of(pair[1])
        says = f"... of its memory at most {comparison.memory_share:g}"
        yield bound(says, share, at_most=comparison.memory_share)


def official_pair(groups: Sequence[Group], name: str) -> tuple[Sequence[Row], Sequence[Row]] | None:
    """One of ours and the official recipe, where they took turns."""
    group = next((g for g in groups if name in g and OFFICIAL in g), None)
    return group and (group[name], group[OFFICIAL])


def _beside_official(groups: Sequence[Group], comparison: Comparison) -> Iterator[str]:
    pair = official_pair(groups, comparison.bridge)
    if pair is not None:
        yield (
            f"Peak memory is {peak_of(pair[0]) / peak_of(pair[1]):.3f} of the official recipe's. "
            "On the same draws, every loss term of the two agrees to "
            f"{largest_difference(*pair):.0e} of its value, over {len(pair[0])} steps."
        )


def peak_of(rows: Sequence[Row]) -> int:
    return max(row["peak"] for row in rows)


def ratio(groups: Sequence[Group], name: str, other: str, bridge: str) -> dict[str, float] | None:
    """Median over the rounds of the ratio within a round; the first round warms up.

    Where the two took no turns with each other, both are compared with the bridge.
    """
    if name == other:
        return None
    for group in groups:
        if name in group and other in group:
            return _paired(group, name, other)
    first = next((g for g in groups if name in g and bridge in g), None)
    second = next((g for g in groups if other in g and bridge in g), None)
    if first is None or second is None:
        return None
    halves = _paired(first, name, bridge), _paired(second, bridge, other)
    return {key: halves[0][key] * halves[1][key] for key in TIMES}


def _paired(group: Group, name: str, other: str) -> dict[str, float]:
    return {key: paired(group[name], group[other], key) for key in TIMES}


def largest_difference(ours: Sequence[Row], theirs: Sequence[Row]) -> float:
    """Over all steps and loss terms, relative."""
    return max(
        abs(a["losses"][name] / value - 1)
        for a, b in zip(ours, theirs, strict=True)
        for name, value in b["losses"].items()
    )
