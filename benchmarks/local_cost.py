"""What localised LoRAs cost: a denoising step with 1, 2 and 4 of them beside the other ways.

    .venv/bin/python benchmarks/local_cost.py
    .venv/bin/python benchmarks/local_cost.py --preset sdxl@128 --device cuda --dtype fp16

A step is one pass with both prompts (guidance), after the places were found. The variants take
turns in one process; CPU time counts on a CPU. Beside them: the step in which places are looked
for, the same LoRAs merged into the weights, and the passes alone that hooks and masked conditioning
need: one for the negative prompt, one for the whole prompt, and one per LoRA, without the weights
that core swaps in between. The target is 1.15 of the plain step and 0.1 more per LoRA.
"""

from __future__ import annotations

import argparse
import shlex
import statistics
import sys
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import torch
from base_model import add_model_options, latent_side, open_model
from measuring import clock_for, processor, settle

from conceptloom.attention.local_lora import LocalLora
from conceptloom.attention.local_setup import LocalSetup, local_setup
from conceptloom.concepts.concept import LowRank
from conceptloom.concepts.lora_file import LoraFile
from conceptloom.host.ports import Role

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "results" / "local_cost.md"
WORDS = ("mug", "cat", "beach", "photo")
PROMPT = "a photo of a mug and a cat at the beach"
FEWEST, STEPS = 3, 5  # rounds, steps of the run that is measured in
COUNTS = (1, 2, 4)
USUAL = ("tinyworld",)


def lora_of(host: Any, number: int, rank: int) -> LocalLora:
    """A LoRA of random numbers on every linear layer of the UNet."""
    generator = torch.Generator().manual_seed(number)
    changes = {}
    for site in host.sites.layers:
        if Role.LINEAR in site.roles:
            shape = host.weight(site.weight).shape
            up = 0.01 * torch.randn(shape[0], rank, generator=generator)
            changes[site.weight] = LowRank(up, torch.randn(rank, *shape[1:], generator=generator))
    words = WORDS[number]
    file = LoraFile(changes=changes, identity=str(number))
    return LocalLora(file=file, name=words, words=words, tokens=host.tokenize(words))


def variants_of(host: Any, side: int, options: argparse.Namespace) -> dict[str, Callable[[], Any]]:
    """Name -> what to do in a step."""
    rows, device = options.batch, host.device
    generator = torch.Generator().manual_seed(1)
    latent = torch.randn(2 * rows, host.latent_channels, side, side, generator=generator).to(device)
    times = host.noise_path.timesteps(STEPS)
    flags = [False] * rows + [True] * rows

    def step(at: float, prompts: Any, edits: Any = (), part: slice = slice(None)) -> None:
        some = latent[part]
        timesteps = torch.full((len(some),), at, device=device)
        host.predict(some, timesteps, prompts, edits, flags[part])

    def prompts_of(setup: LocalSetup | None) -> list[Any]:
        encode = setup.encode if setup else host.encode_prompt
        return [p for p in (encode(""), encode(PROMPT)) for _ in range(rows)]

    plain = prompts_of(None)
    found: dict[str, Callable[[], Any]] = {"plain": lambda: step(times[2], plain)}
    for count in COUNTS:
        setup = local_setup(host, [lora_of(host, g, options.rank) for g in range(count)])
        prompts, edit = prompts_of(setup), setup.edit(STEPS, {PROMPT: plain[-1].tokens})
        looking = setup.edit(STEPS, {PROMPT: plain[-1].tokens})
        step(times[0], prompts, [edit])
        found[f"{count} localised"] = lambda p=prompts, e=edit: step(times[2], p, [e])
        if count == 1:
            found["looking for 1"] = lambda p=prompts, e=looking: step(times[0], p, [e])
        found[f"{count} merged"] = _merged(host, setup, lambda: step(times[2], plain))
        found[f"{count} by hooks, passes alone"] = lambda n=count: [
            step(times[2], plain[:1], part=slice(0, rows)) for _ in range(2 + n)
        ]
    return found


def _merged(host: Any, setup: LocalSetup, step: Callable[[], Any]) -> Callable[[], Any]:
    changes = [lora.file.changes for lora in setup.loras]
    edits = {
        name: lambda w, name=name: w + sum(c[name].delta(w.shape).to(w) for c in changes)
        for name in changes[0]
    }

    def run() -> Callable[[], Any]:
        with host.edited(edits, trainable=False):
            return timed(step, host.device.type)

    return run


def timed(step: Callable[[], Any], device: str) -> float:
    """Seconds of one step; merging happens before and does not count."""
    clock = clock_for(device)
    began = clock()
    step()
    settle(device)
    return clock() - began


def measured(host: Any, side: int, options: argparse.Namespace) -> dict[str, list[float]]:
    """Seconds of every step that counts, by variant; the variants take turns."""
    with torch.no_grad():
        variants = variants_of(host, side, options)
        seconds: dict[str, list[float]] = {name: [] for name in variants}
        clock = clock_for(host.device.type)
        started = clock()
        for turn in range(options.rounds + 1):
            if turn > FEWEST and clock() - started > options.seconds:
                break
            for name, step in variants.items():
                took = step() if name.endswith("merged") else timed(step, host.device.type)
                if turn:  # the first one warms caches up
                    seconds[name].append(took)
    return seconds


def table(seconds: dict[str, list[float]]) -> list[str]:
    rounds = len(seconds["plain"])
    lines = [f"| {rounds} rounds | step, ms | of plain | target |", "|---|---|---|---|"]
    for name, times in seconds.items():
        ratio = statistics.median(a / b for a, b in zip(times, seconds["plain"], strict=True))
        count = name.partition(" localised")[0]
        target = f"{1.15 + 0.1 * int(count):.2f}" if "localised" in name else ""
        step = 1000 * statistics.median(times)
        lines.append(f"| {name} | {step:.2f} | {ratio:.2f} | {target} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", nargs="*", help="NAME or NAME@SIDE, in latent cells")
    parser.add_argument("--batch", type=int, default=1, help="pictures")
    parser.add_argument("--rank", type=int, default=16, help="of every LoRA")
    parser.add_argument("--rounds", type=int, default=21, help="at most")
    parser.add_argument("--seconds", type=float, default=60, help="after which no round begins")
    add_model_options(parser, dtypes=("fp32", "bf16", "fp16"))
    parser.add_argument("--out", type=Path, help=f"by default {PAGE.name} for presets")
    options = parser.parse_args()
    torch.set_num_threads(1)
    lines = [
        "# What localised LoRAs cost",
        "",
        f"    {shlex.join(['python', 'benchmarks/local_cost.py', *sys.argv[1:]])}",
        "",
        f"{date.today()}, {processor(options.device)}, torch {torch.__version__.split('+')[0]}, "
        f"{options.dtype}; on a CPU one thread and its own time. A step is one pass with both "
        f"prompts, {options.batch} picture(s), LoRAs of rank {options.rank} on every linear layer; "
        "the variants take turns, medians; the ratio is the median of the ratios within a round.",
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
