"""A full-size Anima with random weights in ComfyUI on a CPU: a training step, and localised LoRAs.

Transformer, adapter (2 billion numbers together) and text encoder (0.6 billion) are real in shape,
bfloat16. What counts: a step of training goes through and gives every factor a gradient, all keys
of two layouts are found, a run with two LoRAs is drawn, and what it needs.
"""

from __future__ import annotations

import argparse

from harness.results import Result, bound, stamp
from harness.subject import Options

from . import local_zimage
from .comfyui import comfyui_version
from .local_zimage import ask_comfyui, claims_of_drawing, parts_of, sections_of


def run(options: Options) -> Result:
    """Ask the process inside of ComfyUI."""
    told = ask_comfyui("speed.anima_worker", options, quick_steps=3)
    step = told["step"]
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
        sections=sections_of(told),
        claims=[
            bound("a training step on Anima gives every tensor that learns a finite gradient",
                  float(step["tensors"] - step["with_gradient"]), at_most=0,
                  measure="tensors without one"),
            *claims_of_drawing("Anima", told),
            bound("a full-size Anima learns and draws at 256 px in 12 GiB",
                  max(float(part["gib"]) for part in parts_of(told)), at_most=12,
                  measure="peak, GiB"),
        ],
    )  # fmt: skip


def arguments(parser: argparse.ArgumentParser) -> None:
    local_zimage.arguments(parser, steps=4)


def is_usual(options: Options) -> bool:
    """Whether it is the full size."""
    return local_zimage.is_usual(options)
