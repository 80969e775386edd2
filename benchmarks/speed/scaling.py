"""Time and memory by image size, rank and number of concepts, masks, batch and steps.

Every series has a process of its own and goes through its values in growing order, again and again:
the first time around tells memory and warms up, the others tell time. Ratios are to the smallest
value of the series, medians of the ratios within a round. Finished series are not measured again.
"""

from __future__ import annotations

import argparse
import gc
import statistics
from collections.abc import Mapping, Sequence

import torch
from harness.interleaved import Row, ask_once, tell, worker_command
from harness.machine import memory
from harness.models import add_model_options, describe_model, open_model
from harness.results import Column, Result, Section, Table, stamp
from harness.store import kept_json
from harness.subject import Options, add_common_options

from .scaling_series import LATENT, SERIES

USUAL = "tiny"
MODEL = ("preset", "checkpoint", "layout", "device", "dtype", "rounds", "steps")


def work(options: Options) -> None:
    """Tell seconds of a step and peak bytes of every value of one series, round by round."""
    torch.set_num_threads(1)
    host, series = open_model(options), SERIES[options.series]
    for network in (host.unet, host.vae, *(encoder.model for encoder in host._encoders)):
        network.requires_grad_(False)
    gc.collect()
    before = memory(options.device, start=True)
    rows: list[Row] = []
    for turn in range(options.rounds + 1):
        for value in series.values:
            memory(options.device, start=True)
            steps = series.make(host, value)
            seconds = statistics.median(steps(options.steps))
            # What the allocator kept of a smaller value is part of a larger one's peak, which is
            # why only the first time through counts.
            peak = memory(options.device) - before
            rows.append({"turn": turn, "value": value, "seconds": seconds, "peak": peak})
            del steps
            gc.collect()
    tell(rows=rows)


def measured(options: Options, name: str) -> list[Row]:
    """What the process of a series tells, now or when it was finished before."""
    given = {key: getattr(options, key) for key in MODEL} | {"series": name}
    command = worker_command("speed.scaling", given)
    return kept_json(f"scaling/{name}", given, lambda: ask_once(command)["rows"])


def rows_of(values: Sequence[int], rows: Sequence[Row]) -> list[Row]:
    """Seconds by the later rounds, memory by the first, both also beside the smallest value."""
    smallest = {row["turn"]: row for row in rows if row["value"] == values[0]}
    found: list[Row] = []
    for value in values:
        first, *later = [row for row in rows if row["value"] == value]
        shares = (row["seconds"] / smallest[row["turn"]]["seconds"] for row in later)
        found.append(
            {
                "value": value,
                "seconds": statistics.median(row["seconds"] for row in later),
                "time": statistics.median(shares),
                "peak": first["peak"] / 2**20,
                "space": first["peak"] / smallest[0]["peak"],
            }
        )
    return found


def table(name: str, rows: Sequence[Row]) -> Table:
    """One series."""
    series = SERIES[name]
    return Table(
        name=name,
        columns=(
            Column(key="value", title=series.axis),
            Column(key="seconds", title="s", digits=3),
            Column(key="time", title="of the smallest"),
            Column(key="peak", title="peak, MiB", digits=0),
            Column(key="space", title="of the smallest"),
        ),
        rows=rows_of(series.values, rows),
    )


def run(options: Options) -> Result:
    """Every series."""
    if options.quick:
        options.rounds, options.steps, options.series = 1, 1, options.series[3:4]
    found = {name: measured(options, name) for name in options.series}
    return result_of(found, options, describe_model(options, open_model(options)))


def result_of(found: Mapping[str, Sequence[Row]], options: Options, model: str) -> Result:
    """A table for each series."""
    about = (
        f"{model}. {options.rounds} rounds of {options.steps} steps for every value; peaks are on "
        "top of the loaded model, making ready included. Where the side of the latents is not "
        f"named, it is {LATENT}."
    )
    sections = [
        Section(
            heading=f"{SERIES[name].title}, by {SERIES[name].axis}",
            table=table(name, rows),
            after=SERIES[name].remark,
        )
        for name, rows in found.items()
    ]
    return Result(
        **stamp(options.device, options.dtype, "one CPU thread"), about=[about], sections=sections,
    )  # fmt: skip


def arguments(parser: argparse.ArgumentParser) -> None:
    add_common_options(parser)
    add_model_options(parser, preset=USUAL)
    parser.add_argument("--rounds", type=int, default=2, help="times through that count")
    parser.add_argument("--steps", type=int, default=2, help="of every value in every round")
    parser.add_argument("--series", nargs="*", choices=SERIES, default=list(SERIES))
