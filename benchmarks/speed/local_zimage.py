"""Localised LoRAs in a full-size Z-Image with random weights, in ComfyUI on a CPU.

Transformer (6 billion numbers) and text encoder (4 billion) are real in shape, bfloat16, and made
one after the other: the text encoder reads the prompt and goes before the transformer comes. What
counts: all keys of two layouts are found, a run with two LoRAs goes through, and what it needs.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

from harness.interleaved import ask_once, worker_command
from harness.pytest_runner import comfyui_python
from harness.results import Claim, Column, Result, Row, Section, Table, bound, stamp
from harness.subject import Options, add_common_options

from .comfyui import comfyui_version

GB = 2**30


def run(options: Options) -> Result:
    """Ask the process inside of ComfyUI."""
    told = ask_comfyui("speed.local_zimage_worker", options, quick_steps=2)
    return Result(
        **stamp("cpu", "bfloat16", "one run"),
        about=(
            f"ComfyUI {comfyui_version()}; transformer of {told['numbers'] / 1e9:.2f} and text "
            f"encoder of {told['text_numbers'] / 1e9:.2f} billion random numbers, "
            f"{options.size} px, {options.steps} steps of Euler at guidance 1; LoRAs of rank "
            f"{options.rank} on every "
            "linear layer of the main blocks. Seconds are of one run on a shared machine and only "
            "say that it runs; the peak is the process's own. Nothing is decoded, and the text "
            "encoder is unloaded before the transformer is made.",
        ),
        sections=sections_of(told),
        claims=claims_of_drawing("Z-Image", told),
    )


def ask_comfyui(worker: str, options: Options, quick_steps: int) -> dict[str, Any]:
    """What a worker inside of ComfyUI says of a full-size model, or of a tiny one if quick."""
    if options.quick:
        options.preset, options.size, options.steps = "tiny", 64, quick_steps
    asked = {name: getattr(options, name) for name in ("preset", "size", "steps", "rank")}
    return ask_once(worker_command(worker, asked, comfyui_python()))


def parts_of(told: Mapping[str, Any]) -> list[Row]:
    """Seconds and peak of each part of the run."""
    return [
        {"part": part["part"], "seconds": part["seconds"], "gib": part["peak"] / GB}
        for part in told["parts"]
    ]


def sections_of(told: Mapping[str, Any]) -> list[Section]:
    """The tables of files and of parts."""
    files = Table(name="files", columns=FILES, rows=told["files"])
    parts = Table(name="parts", columns=PARTS, rows=parts_of(told))
    return [Section(heading="Files", table=files), Section(heading="Parts", table=parts)]


def claims_of_drawing(title: str, told: Mapping[str, Any]) -> list[Claim]:
    """That no key of the files is lost, and that both LoRAs have a region."""
    return [
        bound(f"every key of two layouts is found on {title}",
              sum(float(row["lost"]) for row in told["files"]), at_most=0,
              measure="keys that fit nothing"),
        bound(f"two LoRAs are drawn in a full-size {title}", float(told["masks"]), at_least=2,
              measure="regions that were found"),
    ]  # fmt: skip


FILES = [
    Column(key="layout", title="layout", is_text=True),
    Column(key="keys", title="keys", digits=0),
    Column(key="lost", title="not found", digits=0),
    Column(key="weights", title="weights", digits=0),
    Column(key="megabytes", title="MB", digits=0),
]
PARTS = [
    Column(key="part", title="part", is_text=True),
    Column(key="seconds", title="seconds", digits=1),
    Column(key="gib", title="peak, GiB", digits=1),
]


def arguments(parser: argparse.ArgumentParser, steps: int = 3) -> None:
    add_common_options(parser)
    parser.add_argument("--preset", default="full", choices=["full", "tiny"])
    parser.add_argument("--size", type=int, default=256, help="side of the picture in pixels")
    parser.add_argument("--steps", type=int, default=steps, help="steps of Euler")
    parser.add_argument("--rank", type=int, default=8, help="of the LoRAs that are drawn with")


def is_usual(options: Options) -> bool:
    """Whether it is the full size."""
    return options.preset == "full"
