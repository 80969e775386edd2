"""A full-size Anima with random weights in ComfyUI on a CPU: a training step, and localised LoRAs.

Transformer, adapter (2 billion numbers together) and text encoder (0.6 billion) are real in shape,
bfloat16. What counts: a step of training goes through and gives every factor a gradient, all keys
of two layouts are found, a run with two LoRAs is drawn, and what it needs.
"""

from __future__ import annotations

import argparse

from harness.interleaved import ask_once, worker_command
from harness.pytest_runner import comfyui_python
from harness.results import Result, Section, Table, bound, stamp
from harness.subject import Options, add_common_options

from .comfyui import comfyui_version
from .local_zimage import FILES, GB, PARTS


def run(options: Options) -> Result:
    """Ask the process inside of ComfyUI."""
    if options.quick:
        options.preset, options.size, options.steps = "tiny", 64, 3
    asked = {name: getattr(options, name) for name in ("preset", "size", "steps", "rank")}
    told = ask_once(worker_command("speed.anima_worker", asked, comfyui_python()))
    files, step = told["files"], told["step"]
    parts = [
        {"part": part["part"], "seconds": part["seconds"], "gib": part["peak"] / GB}
        for part in told["parts"]
    ]
    return Result(
        **stamp("cpu", "bfloat16", "one run"),
        about=(
            f"ComfyUI {comfyui_version()}; transformer and adapter of {told['numbers'] / 1e9:.2f} "
            f"and text encoder of {told['text_numbers'] / 1e9:.2f} billion random numbers, "
            f"{options.size} px. Training: Break-A-Scene's loss on one picture, low rank 16 on "
            f"every linear layer of the blocks ({step['learning'] / 1e6:.1f} million numbers), "
            f"gradient checkpointing. Drawing: {options.steps} steps of Euler at guidance 1; LoRAs "
            f"of rank {options.rank} on the same layers. Seconds are of one run on a shared "
            "machine and only say that it runs; the peak is the process's own. No VAE is loaded: "
            "latents are means of 8x8 pixels, and nothing is decoded.",
        ),
        sections=[
            Section(heading="Files", table=Table(name="files", columns=FILES, rows=files)),
            Section(heading="Parts", table=Table(name="parts", columns=PARTS, rows=parts)),
        ],
        claims=[
            bound("a training step on Anima gives every tensor that learns a finite gradient",
                  float(step["tensors"] - step["with_gradient"]), at_most=0,
                  measure="tensors without one"),
            bound("every key of two layouts is found on Anima",
                  sum(float(row["lost"]) for row in files), at_most=0,
                  measure="keys that fit nothing"),
            bound("two LoRAs are drawn in a full-size Anima", float(told["masks"]), at_least=2,
                  measure="regions that were found"),
            bound("a full-size Anima learns and draws at 256 px in 12 GiB",
                  max(float(part["gib"]) for part in parts), at_most=12, measure="peak, GiB"),
        ],
    )  # fmt: skip


def arguments(parser: argparse.ArgumentParser) -> None:
    add_common_options(parser)
    parser.add_argument("--preset", default="full", choices=["full", "tiny"])
    parser.add_argument("--size", type=int, default=256, help="side of the picture in pixels")
    parser.add_argument("--steps", type=int, default=4, help="steps of Euler")
    parser.add_argument("--rank", type=int, default=8, help="of the LoRAs that are drawn with")


def is_usual(options: Options) -> bool:
    """Whether it is the full size."""
    return options.preset == "full"
