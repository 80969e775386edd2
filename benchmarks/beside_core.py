"""Time, memory and quality beside what a user of ComfyUI would pick instead, in one run.

    COMFYUI_PATH=~/comfy/ComfyUI ~/comfy/.venv/bin/python benchmarks/beside_core.py
    ... benchmarks/beside_core.py --checkpoint sd15.safetensors --device cuda --latent 64 --steps 20

Masked Blended Sampler beside Set Latent Noise Mask and Differential Diffusion; Region Feature Fuser
beside conditioning masks with LoRA hooks and beside a KSampler per region; LAG beside Load LoRA;
all beside a plain KSampler. Runs under ComfyUI's Python and through its executor. Every variant has
a process of its own, and those of a group take turns, a sampling run each. Finished groups stand
below `runs/` and are not measured again: the same command goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import sys
import time
from functools import partial
from pathlib import Path

from beside_graphs import Run
from beside_host import DTYPES, PRESETS, Stage, comfyui_version, models_of, start_comfyui, values_of
from beside_page import page
from beside_quality import quality
from beside_variants import GROUPS
from measuring import memory, settle
from turns import Row, ask_once, kept, take_turns, tell

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "results" / "beside_core.md"
KEPT = ROOT / "runs" / "beside_core"
QUALITY = "quality"
MODEL, RUNS = ("checkpoint", "preset", "dtype", "device"), ("latent", "steps", "cfg")


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", default="35m", choices=PRESETS, help="a random model's size")
    parser.add_argument("--checkpoint", type=Path, help="a real model in place of the preset")
    parser.add_argument("--dtype", default="fp32", choices=DTYPES)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--latent", type=int, default=16, help="cells a side of the latents")
    parser.add_argument("--steps", type=int, default=4, help="of every sampling run")
    parser.add_argument("--cfg", type=float, default=7.5)
    parser.add_argument("--rounds", type=int, default=3, help="runs of each that count")
    parser.add_argument("--groups", nargs="*", choices=GROUPS, default=list(GROUPS))
    parser.add_argument("--seeds", type=int, default=3, help="of every edit; 0 draws none")
    parser.add_argument("--out", type=Path, help="default: the repository's page for all groups")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    is_usual = options.checkpoint is None and set(options.groups) == set(GROUPS)
    options.out = options.out or (PAGE if is_usual else KEPT / PAGE.name)
    return options


def work(options: argparse.Namespace) -> None:
    """Make a run for every line that comes in, and tell what it took."""
    group, _, name = options.worker.partition("/")
    variant, count = GROUPS[group].variants[name], GROUPS[group].count
    start_comfyui(options.device)
    import torch

    stage = Stage()
    with torch.inference_mode():  # as loader nodes do
        stage.values = values_of(models_of(options), options.latent)
    before = memory(options.device, start=True)
    for number, _ in enumerate(sys.stdin):
        run = Run(seed=number, steps=options.steps, cfg=options.cfg, count=count)
        wall, cpu = time.perf_counter(), time.process_time()
        stage.draw(variant, run)
        settle(options.device)
        tell(
            seconds=time.perf_counter() - wall,
            cpu=time.process_time() - cpu,
            peak=memory(options.device) - before,
        )


def look(options: argparse.Namespace) -> None:
    """Edit the pictures of TinyWorld, and tell every score."""
    start_comfyui(options.device)
    tell(scores=quality(Stage(), options.seeds, options.out.with_suffix(".jpg")))


def command(worker: str, options: argparse.Namespace) -> list[str]:
    given = {key: getattr(options, key) for key in (*MODEL, *RUNS, "seeds", "out")}
    passed = [f"--{key}={value}" for key, value in given.items() if value is not None]
    return [sys.executable, __file__, f"--worker={worker}", *passed]


def timed(name: str, options: argparse.Namespace) -> dict[str, list[Row]]:
    """What the runs of a group took, by variant."""
    commands = {key: command(f"{name}/{key}", options) for key in GROUPS[name].variants}

    def told(turn: int) -> None:
        sys.stderr.write(f"{name}: round {turn} of {options.rounds}\n")

    return take_turns(commands, options.rounds, told)


def main() -> None:
    options = arguments()
    if options.worker:
        (look if options.worker == QUALITY else work)(options)
        return
    asked = {key: getattr(options, key) for key in (*MODEL, *RUNS, "rounds")}
    taken = {
        name: kept(KEPT, name, asked, partial(timed, name, options)) for name in options.groups
    }
    scores: list[Row] = []
    if options.seeds:
        edits = {"seeds": options.seeds, "device": options.device, "out": options.out}
        scores = kept(KEPT, QUALITY, edits, lambda: ask_once(command(QUALITY, options))["scores"])
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(page(taken, scores, options, comfyui_version()), encoding="utf-8")
    sys.stderr.write(f"wrote {options.out}\n")


if __name__ == "__main__":
    main()
