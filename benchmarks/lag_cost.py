"""What LAG costs: a denoising step with one and with three concepts beside one without.

    .venv/bin/python benchmarks/lag_cost.py
    .venv/bin/python benchmarks/lag_cost.py --preset sd15@64 --device cuda --dtype fp16

A step is one pass with both prompts (guidance). The variants take turns in one process, so that
whatever else the machine does meets all of them alike; CPU time counts on a CPU. The target is
1.05 of the plain step with one concept and 1.15 with three.
"""

from __future__ import annotations

import argparse
import shlex
import statistics
import sys
from datetime import date
from pathlib import Path
from typing import Any

import torch
from base_model import add_model_options, latent_side, open_model
from measuring import clock_for, processor, settle

from conceptloom.attention.lag import LagConcept, LagEdit
from conceptloom.attention.lag_config import LagConfig
from conceptloom.host.ports import Role
from conceptloom.training.adapters import rank_for

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "results" / "lag_cost.md"
WORDS = ("mug", "cat", "beach")
FEWEST = 3  # rounds
USUAL = ("tinyworld", "35m", "sd15@32")  # models, where none is asked for
TARGETS = {"plain": 1.0, "LAG off": 1.05, "one concept": 1.05, "three concepts": 1.15}


def concepts_of(host: Any, count: int, **config: Any) -> list[LagConcept]:
    generator = torch.Generator().manual_seed(0)

    def factors(width: int) -> tuple[torch.Tensor, torch.Tensor]:
        rank = rank_for(0.05, width)
        pair = (
            torch.randn(width, rank, generator=generator),
            torch.randn(rank, width, generator=generator),
        )
        return 0.01 * pair[0], pair[1]

    return [
        LagConcept(
            handle=f"my-{word}",
            class_tokens=host.tokenize(word),
            residuals={
                site.weight: factors(site.block.width)
                for site in host.sites.layers
                if Role.PROJ_OUT in site.roles
            },
            config=LagConfig(**config),
        )
        for word in WORDS[:count]
    ]


def variants_of(host: Any) -> dict[str, list[LagEdit]]:
    """Name -> edits of a step."""
    return {
        "plain": [],
        "LAG off": [LagEdit(concepts_of(host, 1, localised=False))],
        "one concept": [LagEdit(concepts_of(host, 1))],
        "three concepts": [LagEdit(concepts_of(host, 3))],
    }


def measured(host: Any, side: int, options: argparse.Namespace) -> dict[str, list[float]]:
    """Seconds of every step that counts, by variant; the variants take turns."""
    handles = {
        f"my-{word}": {name: torch.randn(1, size) for name, size in host.encoders.items()}
        for word in WORDS
    }
    text = "a photo of " + " and ".join(f"<my-{word}> {word}" for word in WORDS)
    prompts = [host.encode_prompt(""), host.encode_prompt(text, handles)]
    prompts = [prompt for prompt in prompts for _ in range(options.batch)]
    flags = [False] * options.batch + [True] * options.batch
    shape = (2 * options.batch, host.latent_channels, side, side)
    latent = torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(host.device)
    timesteps = torch.full((2 * options.batch,), 500, device=host.device)
    edits = variants_of(host)
    seconds: dict[str, list[float]] = {name: [] for name in edits}
    clock = clock_for(host.device.type)
    started = clock()
    with torch.no_grad():
        for turn in range(options.rounds + 1):
            if turn > FEWEST and clock() - started > options.seconds:
                break
            for name in seconds:
                began = clock()
                host.predict(latent, timesteps, prompts, edits[name], conditional=flags)
                settle(host.device.type)
                if turn:  # the first one warms caches up
                    seconds[name].append(clock() - began)
    return seconds


def ratios(seconds: dict[str, list[float]]) -> dict[str, float]:
    """Median over the rounds of a step's time against the plain one of the same round."""
    return {
        name: statistics.median(a / b for a, b in zip(times, seconds["plain"], strict=True))
        for name, times in seconds.items()
    }


def table(seconds: dict[str, list[float]]) -> list[str]:
    found = ratios(seconds)
    rounds = len(seconds["plain"])
    lines = [f"| {rounds} rounds | step, ms | of plain | target |", "|---|---|---|---|"]
    for name, times in seconds.items():
        step = 1000 * statistics.median(times)
        lines.append(f"| {name} | {step:.2f} | {found[name]:.3f} | {TARGETS[name]:.2f} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--preset",
        nargs="*",
        help="NAME or NAME@SIDE, in latent cells; with a checkpoint @SIDE or nothing",
    )
    parser.add_argument("--batch", type=int, default=1, help="pictures")
    parser.add_argument("--rounds", type=int, default=41, help="at most")
    parser.add_argument("--seconds", type=float, default=40, help="after which no round begins")
    add_model_options(parser, dtypes=("fp32", "bf16", "fp16"))
    parser.add_argument("--out", type=Path, help=f"by default {PAGE.name} for presets")
    options = parser.parse_args()
    torch.set_num_threads(1)
    lines = [
        "# What LAG costs",
        "",
        f"    {shlex.join(['python', 'benchmarks/lag_cost.py', *sys.argv[1:]])}",
        "",
        f"{date.today()}, {processor(options.device)}, torch {torch.__version__.split('+')[0]}, "
        f"{options.dtype}; on a CPU one thread and its own time. A step is one pass with both "
        f"prompts, {options.batch} picture(s); the variants take turns, medians; the ratio is the "
        "median of the ratios within a round. TinyWorld and 35m are so narrow that what a hook and "
        "a call of torch cost counts; sd15 has the widths of Stable Diffusion 1.5.",
    ]
    for asked in options.preset or ([""] if options.checkpoint else USUAL):
        name, _, chosen = asked.partition("@")
        host = open_model(options, preset=name)
        host.unet.eval()
        side = int(chosen or latent_side(host))
        found = table(measured(host, side, options))
        print(name, *found, sep="\n", flush=True)
        lines += ["", f"## {name or options.checkpoint.name}, latents {side}x{side}", "", *found]
    if out := options.out or (None if options.checkpoint else PAGE):
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
