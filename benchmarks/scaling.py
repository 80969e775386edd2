"""How time and memory grow with concepts, masks, batch, resolution and steps.

    .venv/bin/python benchmarks/scaling.py
    .venv/bin/python benchmarks/scaling.py --preset sd15 --device cuda --dtype bf16

Every series has a process of its own and goes through its values in growing order, again and
again: the first time around tells memory and warms up, the others tell time. Ratios are to the
smallest value of the series, medians of the ratios within a round. Finished series stand below
`runs/` and are not measured again: the same command goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import gc
import shlex
import statistics
import sys
from collections.abc import Iterator, Mapping
from datetime import date
from pathlib import Path

import torch
from base_model import add_model_options, describe_model, model_arguments, open_model, page_of
from measuring import memory, processor, versions
from scaling_series import LATENT, SERIES
from turns import Row, ask_once, kept, tell

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "results" / "scaling.md"
KEPT = ROOT / "runs" / "scaling"
USUAL = "tiny"


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_model_options(parser, preset=USUAL)
    parser.add_argument("--rounds", type=int, default=2, help="times through that count")
    parser.add_argument("--steps", type=int, default=2, help="of every value in every round")
    parser.add_argument("--series", nargs="*", choices=SERIES, default=list(SERIES))
    parser.add_argument("--out", type=Path, help=f"by default {PAGE.name} for the {USUAL} preset")
    parser.add_argument("--worker", choices=SERIES, help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def work(options: argparse.Namespace) -> None:
    """Tell seconds of a step and peak bytes of every value of one series, round by round."""
    torch.set_num_threads(1)
    host, series = open_model(options), SERIES[options.worker]
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


def measured(options: argparse.Namespace, name: str) -> list[Row]:
    """What the process of a series tells, now or when it was finished before."""
    given = [f"--rounds={options.rounds}", f"--steps={options.steps}", *model_arguments(options)]
    command = [sys.executable, __file__, f"--worker={name}", *given]
    return kept(KEPT, name, {"given": given}, lambda: ask_once(command)["rows"])


def table(name: str, rows: list[Row]) -> Iterator[str]:
    """Lines of Markdown."""
    series = SERIES[name]
    smallest = {row["turn"]: row for row in rows if row["value"] == series.values[0]}
    yield f"| {series.axis} | s | of the smallest | peak, MiB | of the smallest |"
    yield "|--:|--:|--:|--:|--:|"
    for value in series.values:
        first, *later = [row for row in rows if row["value"] == value]
        seconds = statistics.median(row["seconds"] for row in later)
        time = statistics.median(r["seconds"] / smallest[r["turn"]]["seconds"] for r in later)
        space = first["peak"] / smallest[0]["peak"]
        peak = first["peak"] / 2**20
        yield f"| {value} | {seconds:.3f} | {time:.2f} | {peak:.0f} | {space:.2f} |"


def page(found: Mapping[str, list[Row]], options: argparse.Namespace, model: str) -> str:
    lines = [
        "# How time and memory grow",
        "",
        f"    {shlex.join(['python', 'benchmarks/scaling.py', *sys.argv[1:]])}",
        "",
        f"{date.today()}, {processor(options.device)}, {versions()}, {options.device}, "
        f"{options.dtype}, one CPU thread. {model}. {options.rounds} rounds of {options.steps} "
        "steps for every value; peaks are on top of the loaded model, making ready included. "
        f"Where the side of the latents is not told, it is {LATENT}.",
    ]
    for name, rows in found.items():
        lines += ["", f"## {SERIES[name].title}, by {SERIES[name].axis}", "", *table(name, rows)]
        if SERIES[name].remark:
            lines += ["", SERIES[name].remark]
    return "\n".join(lines) + "\n"


def main() -> None:
    options = arguments()
    if options.worker:
        work(options)
        return
    found: dict[str, list[Row]] = {}
    for name in options.series:
        found[name] = measured(options, name)
        sys.stderr.write("\n".join([name, *table(name, found[name])]) + "\n")
    text = page(found, options, describe_model(options, open_model(options)))
    if target := page_of(options, options.out, PAGE, USUAL):
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")
    sys.stdout.write(text)


if __name__ == "__main__":
    main()
