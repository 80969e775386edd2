"""What blended sampling and guidance cost beside plain sampling, in one run.

    .venv/bin/python benchmarks/blended_cost.py
    .venv/bin/python benchmarks/blended_cost.py --preset sd15 --device cuda --dtype fp16

Random weights; the variants take turns, a short sampling run each (A B C A B C ...), so that
whatever else the machine does meets all of them alike. Ratios are medians of the ratios within a
round, by processor time on the CPU and by wall time on a GPU.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import date
from pathlib import Path

import torch
from base_model import (
    add_model_options,
    describe_model,
    latent_side,
    open_model,
    page_of,
    picture_side,
)
from measuring import clock_for, memory, processor, settle
from official_transfer import OfficialTransfer

from conceptloom.attention.capture import word_positions
from conceptloom.host.diffusers import DiffusersHost
from conceptloom.host.ports import Place
from conceptloom.samplers.blended import BlendConfig
from conceptloom.samplers.ddim import sample_ddim, seeded_noise
from conceptloom.samplers.editing import EditConfig, Region, edit_latents
from conceptloom.samplers.guidance import GuidanceConfig
from conceptloom.samplers.masks import latent_masks

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "results" / "blended_cost.md"
PROMPT, WORD = "a photo of a mug", "mug"
PROMISES = (
    ("blended sampling without guidance at most 1.03 of plain sampling", "blended", 1.03),
    ("a guided step at most 3 times a plain step", "guided", 3.0),
)
TITLES = {
    "plain": "plain DDIM",
    "blended": "blended, eta 1, soft mask",
    "guided": "blended and guided in every step, all maps",
    "guided at level 4": "the same, maps of level 4 alone",
    "official": "guided in every step, the official way",
}
NOTE = """\
*The official way*: both rows of classifier-free guidance through the whole UNet, every attention in
full, the gradient back from there; without what its program computes in vain, gradients of the
weights, and without the picture that it decodes at every step. Ours passes the prompt's row alone,
as far as the last map that is read.
"""


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_model_options(parser, preset="tiny", dtypes=("fp32", "bf16", "fp16"))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=4, help="sampling steps of each run")
    parser.add_argument("--cfg", type=float, default=7.5, help="1 asks for one row a picture")
    parser.add_argument("--output", type=Path, help=f"default: {PAGE} for the tiny preset")
    return parser.parse_args()


def runs_of(host: DiffusersHost, options: argparse.Namespace) -> dict[str, Callable[[], object]]:
    """A sampling run of every variant, on the same prompts and sizes."""
    side = picture_side(host)
    noise = seeded_noise(host, 0, 1, (side, side))
    source = 0.5 * seeded_noise(host, 1, 1, (side, side)).to(host.device)
    with torch.no_grad():
        prompt, negative = host.encode_prompt(PROMPT), host.encode_prompt("")
    mask = torch.zeros(side, side)
    mask[side // 4 : side // 2, side // 4 : side // 2] = 1
    region = Region(prompt, mask, (WORD,))
    blended = EditConfig(steps=options.steps, cfg=options.cfg, blend=BlendConfig(start=0))
    guidance = GuidanceConfig(steps=options.steps)

    def plain() -> object:
        return sample_ddim(host, [prompt], negative, noise, steps=options.steps, cfg=options.cfg)

    def edit(guided: GuidanceConfig | None) -> Callable[[], object]:
        config = blended if guided is None else replace(blended, guidance=guided)
        return lambda: edit_latents(host, source, [region], negative, config)

    runs = {"plain": plain, "blended": edit(None), "guided": edit(guidance)}
    if host.sites.at_downsample(4, [Place.UP]):
        runs["guided at level 4"] = edit(replace(guidance, downsample=4))
    token, *_ = word_positions(host, prompt, WORD)
    official = OfficialTransfer(host, prompt, negative, token, options.cfg)
    on_grid = latent_masks(mask[None], (source.shape[-2], source.shape[-1])).to(host.device)
    runs["official"] = lambda: official.run(source, on_grid, options.steps)
    return runs


def measured(run: Callable[[], object], device: str) -> tuple[float, int]:
    """Seconds of a run (processor time on a CPU), and the peak of bytes, with the model."""
    clock = clock_for(device)
    settle(device)
    memory(device, start=True)
    began = clock()
    run()
    settle(device)
    return clock() - began, memory(device)


def main() -> None:
    options = arguments()
    if options.device == "cpu":
        torch.set_num_threads(1)  # more of them burn time while they wait for each other
    host = open_model(options)
    runs = runs_of(host, options)
    for run in runs.values():
        run()
    rounds = [
        {name: measured(run, options.device) for name, run in runs.items()}
        for _ in range(options.rounds)
    ]
    text = page(rounds, options, host)
    if target := page_of(options, options.output, PAGE, "tiny"):
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")
    sys.stdout.write(text)


def page(
    rounds: list[dict[str, tuple[float, int]]], options: argparse.Namespace, host: DiffusersHost
) -> str:
    ratios = {
        name: statistics.median(row[name][0] / row["plain"][0] for row in rounds)
        for name in rounds[0]
    }
    lines = [
        "# Blended sampling and guidance: what they cost",
        "",
        f"Written by `{' '.join(['python benchmarks/blended_cost.py', *sys.argv[1:]])}` on "
        f"{date.today():%d %B %Y}. {describe_model(options, host)}; {options.dtype}, "
        f"{processor(options.device)}, latents {latent_side(host)}x{latent_side(host)}, cfg "
        f"{options.cfg:g}, {options.steps} steps a run, {options.rounds} rounds, torch "
        f"{torch.__version__}, load average {os.getloadavg()[0]:.1f}.",
        "",
        "| variant | s a step | of plain |" + (" peak MiB |" if options.device == "cuda" else ""),
        "|---|--:|--:|" + ("--:|" if options.device == "cuda" else ""),
    ]
    for name, title in ((name, TITLES[name]) for name in rounds[0]):
        seconds = statistics.median(row[name][0] for row in rounds) / options.steps
        line = f"| {title} | {seconds:.4f} | {ratios[name]:.3f} |"
        if options.device == "cuda":
            line += f" {max(row[name][1] for row in rounds) / 2**20:.0f} |"
        lines.append(line)
    lines += ["", NOTE, "| promised | found |", "|---|--:|"]
    lines += [f"| {told} | {ratios[name]:.3f} |" for told, name, _ in PROMISES]
    kept = all(ratios[name] <= limit for _, name, limit in PROMISES)
    return "\n".join([*lines, "", "Kept." if kept else "**Not kept.**", ""])


if __name__ == "__main__":
    main()
