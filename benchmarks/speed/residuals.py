"""A training step of Personalized Residuals beside ComfyUI's own Train LoRA node.

Every variant runs in a process of its own under ComfyUI's Python, so its peak memory is its own
too, and they take turns, a step each: a hook behind the optimizer holds each of them until it is
its turn again. Rank, batch, latents, precision and model are the same: a random one of SD 1.5's
structure, or a checkpoint. The core node has no scope: it trains every layer, where we train
output projections.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.interleaved import Row, median, ratio, take_turns, tell, worker_command
from harness.machine import memory, settle, versions
from harness.pytest_runner import comfyui_python
from harness.results import Column, Result, Section, Table, bound, stamp
from harness.subject import Options, add_common_options

from .comfyui import PRESETS, comfyui_version, models_of, random_models, start_comfyui

# name -> core's node or ours, gradient checkpointing, core's bypass (hooks in place of weights)
# name -> core's node or ours, gradient checkpointing, core's bypass (hooks in place of weights)
VARIANTS = {
    "ours": ("ours", False, False),
    "Train LoRA": ("core", False, False),
    "Train LoRA, bypass": ("core", False, True),
    "ours, checkpointed": ("ours", True, False),
    "Train LoRA, checkpointed": ("core", True, False),
}
TEXT = "a photo of a cat"
USUAL, CORE = "35m", "Train LoRA"


def work(options: Options) -> None:
    """Train for ever; make a step for every line that comes in, and tell what it took."""
    kind, checkpointing, bypass = VARIANTS[options.variant]
    start_comfyui(options.device)
    from torch.optim.optimizer import register_optimizer_step_post_hook

    options.dtype = "fp32"
    models = models_of(options)
    turn = _Turn(options.device)
    register_optimizer_step_post_hook(turn)
    turn.wait()
    train = _train_core if kind == "core" else _train_ours
    train(models, options, checkpointing, bypass)


def _train_core(
    models: dict[str, Any], options: Options, checkpointing: bool, bypass: bool
) -> None:
    import torch
    from comfy_extras.nodes_train import TrainLoraNode

    with torch.inference_mode():
        latents = {"samples": torch.randn(options.batch, 4, options.latent, options.latent)}
        clip = models["clip"]
        prompt = clip.encode_from_tokens_scheduled(clip.tokenize(TEXT))
    if options.checkpoint is None:  # the node copies a MODEL by loading it anew
        models["model"].cached_patcher_init = (lambda **_: random_models(options).model, ())
    given = {
        "model": models["model"], "batch_size": options.batch, "steps": 10_000,
        "grad_accumulation_steps": 1, "learning_rate": 1e-3, "rank": options.rank,
        "optimizer": "AdamW", "loss_function": "MSE", "seed": 0, "training_dtype": "fp32",
        "lora_dtype": "fp32", "quantized_backward": False, "algorithm": "LoRA",
        "gradient_checkpointing": checkpointing, "checkpoint_depth": 1, "offloading": False,
        "existing_lora": "[None]", "bucket_mode": False, "bypass_mode": bypass,
    }  # fmt: skip
    lists: dict[str, Any] = {name: [value] for name, value in given.items()}
    TrainLoraNode.execute(latents=[latents], positive=[prompt], **lists)


def _train_ours(
    models: dict[str, Any], options: Options, checkpointing: bool, bypass: bool
) -> None:
    import torch
    from weaver_graphs import pack

    with torch.inference_mode():
        host = pack("host.comfyui.host").ComfyHost(*models.values())
    side = options.latent * host.pixels_per_latent
    images = [torch.rand(side, side, 3) for _ in range(options.batch)]
    residuals = pack("methods.personalized_residuals")
    config = residuals.PersonalizedResidualsConfig(
        steps=10_000,
        batch_size=options.batch,
        ratio=float(options.rank),  # from 1 on the rank itself
        checkpointing=checkpointing,
    )
    with torch.inference_mode(False):
        residuals.learn_residuals(host, images, "my-cat", "cat", config)


class _Turn:
    """Behind every step of the optimizer: tells what the step took, and waits for its turn."""

    def __init__(self, device: str) -> None:
        self._device, self._clock = device, (0.0, 0.0)
        self._before = memory(device, start=True)

    def wait(self) -> None:
        if not sys.stdin.readline():
            os._exit(0)  # in the middle of a training that never ends
        self._clock = time.perf_counter(), time.process_time()

    def __call__(self, optimizer: Any, *_: Any) -> None:
        settle(self._device)
        wall, cpu = time.perf_counter() - self._clock[0], time.process_time() - self._clock[1]
        trained = sum(p.numel() for group in optimizer.param_groups for p in group["params"])
        peak = memory(self._device) - self._before
        tell(seconds=wall, cpu=cpu, peak=peak, trained=trained, versions=versions())
        self.wait()


def run(options: Options) -> Result:
    """All variants in turns."""
    if options.quick:
        options.preset, options.latent, options.batch, options.rounds = "tiny", 8, 1, 1
        options.variants = ["ours", CORE]
    python = comfyui_python()
    keys = ("preset", "device", "rank", "batch", "latent", "checkpoint")
    given = {key: getattr(options, key) for key in keys}
    commands = {
        name: worker_command("speed.residuals", {**given, "variant": name}, python)
        for name in options.variants
    }

    def on_round(turn: int) -> None:
        sys.stderr.write(f"round {turn} of {options.rounds}\n")

    return result_of(take_turns(commands, options.rounds, on_round), options)


def result_of(taken: Mapping[str, Sequence[Row]], options: Options) -> Result:
    """A row for each variant."""
    channels, *_ = PRESETS[options.preset]
    model = f"random model of SD 1.5's structure, {channels} channels of its 320"
    if options.checkpoint:
        model = f"checkpoint `{Path(options.checkpoint).name}`"
    about = (
        f"Rank {options.rank}, batch {options.batch}, latents {options.latent}x{options.latent}, "
        f"{model}. {options.rounds} steps in turns after one that does not count: medians, *of "
        "ours* of the ratios within a round; the peak is what the process took at most on top of "
        "the loaded models, over all steps."
    )
    clock = "cpu" if options.device == "cpu" else "seconds"
    rows = [
        {
            "variant": name,
            "trained": told[-1]["trained"],
            "step": median(told, clock),
            "of ours": ratio(told, taken["ours"], clock) if "ours" in taken else None,
            "peak": max(row["peak"] for row in told) / 2**20,
        }
        for name, told in taken.items()
    ]
    slower = next((row["of ours"] for row in rows if row["variant"] == CORE), None)
    made: dict[str, Any] = stamp(options.device, "float32", "one CPU thread")
    libraries = next(iter(taken.values()))[-1]["versions"]  # of ComfyUI's Python
    made["versions"] = {"ComfyUI": comfyui_version(), **libraries}
    return Result(
        **made, about=[about],
        sections=[Section(table=Table(name="steps", columns=COLUMNS, rows=rows), after=NOTE)],
        claims=[bound("A step of core Train LoRA takes longer than ours", slower, at_least=1)],
    )  # fmt: skip


COLUMNS = (
    Column(key="variant", title="variant", is_text=True),
    Column(key="trained", title="trained numbers"),
    Column(key="step", title="step, s"),
    Column(key="of ours", title="of ours"),
    Column(key="peak", title="peak, MiB over the model", digits=0),
)
NOTE = """\
On a CPU seconds are its own. *Train LoRA* has no scope: it puts factors beside every weight of the
UNet, we beside the output projections alone. *Bypass* is its variant with hooks in place of changed
weights. It copies the MODEL by loading it once more, which is part of its peak."""


def arguments(parser: argparse.ArgumentParser) -> None:
    add_common_options(parser)
    parser.add_argument("--preset", default=USUAL, choices=PRESETS, help="a random model's size")
    parser.add_argument("--checkpoint", type=Path, help="a real model in place of the preset")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--latent", type=int, default=32, help="cells a side of a latent")
    parser.add_argument("--rounds", type=int, default=5, help="steps of each that count")
    parser.add_argument("--variants", nargs="*", choices=VARIANTS, default=list(VARIANTS))
