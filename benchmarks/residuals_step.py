"""A training step of Personalized Residuals beside ComfyUI's own Train LoRA node.

    COMFYUI_PATH=~/comfy/ComfyUI ~/comfy/.venv/bin/python benchmarks/residuals_step.py
    ... benchmarks/residuals_step.py --device cuda --checkpoint v1-5.safetensors --latent 64

Runs under ComfyUI's Python. Every variant lives in a process of its own, so its peak memory is its
own too, and they take turns, a step each: a hook behind the optimizer holds each of them until it
is its turn again. Rank, batch, latents, precision and model are the same: a random one of SD 1.5's
structure, or a checkpoint. The core node has no scope: it trains every layer, where we train
output projections.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

from beside_host import PRESETS, comfyui_version, models_of, random_models, start_comfyui
from measuring import memory, processor, settle
from turns import Row, median, ratio, take_turns, tell

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "results" / "residuals_step.md"
# name -> core's node or ours, gradient checkpointing, core's bypass (hooks in place of weights)
VARIANTS = {
    "ours": ("ours", False, False),
    "Train LoRA": ("core", False, False),
    "Train LoRA, bypass": ("core", False, True),
    "ours, checkpointed": ("ours", True, False),
    "Train LoRA, checkpointed": ("core", True, False),
}
TEXT = "a photo of a cat"
USUAL = "35m"


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", default=USUAL, choices=PRESETS, help="a random model's size")
    parser.add_argument("--checkpoint", type=Path, help="a real model in place of the preset")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--latent", type=int, default=32, help="cells a side of a latent")
    parser.add_argument("--rounds", type=int, default=5, help="steps of each that count")
    parser.add_argument("--variants", nargs="*", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--out", type=Path, help=f"by default {PAGE.name} for the {USUAL} preset")
    parser.add_argument("--worker", choices=VARIANTS, help=argparse.SUPPRESS)
    return parser.parse_args(argv)


# ---------------------------------------------------------------- the process of one variant


def work(options: argparse.Namespace) -> None:
    """Train for ever; make a step for every line that comes in, and tell what it took."""
    kind, checkpointing, bypass = VARIANTS[options.worker]
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
    models: dict[str, Any], options: argparse.Namespace, checkpointing: bool, bypass: bool
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
    models: dict[str, Any], options: argparse.Namespace, checkpointing: bool, bypass: bool
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
        tell(seconds=wall, cpu=cpu, peak=peak, trained=trained)
        self.wait()


# ---------------------------------------------------------------- all of them in turns


def command(worker: str, options: argparse.Namespace) -> list[str]:
    keys = ("preset", "device", "rank", "batch", "latent", "checkpoint")
    given = [f"--{key}={getattr(options, key)}" for key in keys if getattr(options, key)]
    return [sys.executable, __file__, f"--worker={worker}", *given]


def table(taken: Mapping[str, Sequence[Row]], device: str) -> list[str]:
    clock = "cpu" if device == "cpu" else "seconds"
    told = "s of CPU" if device == "cpu" else "s"
    lines = [
        f"| variant | trained numbers | step, {told} | of ours | peak, MiB over the model |",
        "|---|---|---|---|---|",
    ]
    for name, rows in taken.items():
        share = f"{ratio(rows, taken['ours'], clock):.2f}" if "ours" in taken else ""
        peak = max(row["peak"] for row in rows) / 2**20
        step, trained = median(rows, clock), rows[-1]["trained"]
        lines.append(f"| {name} | {trained:,} | {step:.2f} | {share} | {peak:.0f} |")
    return lines


def page(options: argparse.Namespace, taken: Mapping[str, Sequence[Row]]) -> str:
    channels, *_ = PRESETS[options.preset]
    model = f"random model of SD 1.5's structure, {channels} channels of its 320"
    if options.checkpoint:
        model = f"checkpoint `{options.checkpoint.name}`"
    head = (
        f"{date.today()}, {processor(options.device)}, ComfyUI {comfyui_version()}, float32, one "
        f"CPU thread; rank {options.rank}, batch {options.batch}, latents "
        f"{options.latent}x{options.latent}, {model}. {options.rounds} steps in turns after one "
        "that does not count: medians, *of ours* of the ratios within a round; the peak is what "
        "the process took at most on top of the loaded models, over all steps."
    )
    told = (
        "*Train LoRA* has no scope: it puts factors beside every weight of the UNet, we beside the "
        "output projections alone. *Bypass* is its variant with hooks in place of changed weights. "
        "It copies the MODEL by loading it once more, which is part of its peak."
    )
    lines = ["# A step of Personalized Residuals beside core Train LoRA", ""]
    asked = shlex.join(["python", "benchmarks/residuals_step.py", *sys.argv[1:]])
    lines += [f"    COMFYUI_PATH=~/comfy/ComfyUI {asked}", ""]
    return "\n".join([*lines, head, "", *table(taken, options.device), "", told, ""])


def main() -> None:
    options = arguments()
    if options.worker:
        work(options)
        return
    commands = {name: command(name, options) for name in options.variants}

    def told(turn: int) -> None:
        sys.stderr.write(f"round {turn} of {options.rounds}\n")

    taken = take_turns(commands, options.rounds, told)
    sys.stderr.write("\n".join(table(taken, options.device)) + "\n")
    is_usual = options.checkpoint is None and options.preset == USUAL
    if out := options.out or (PAGE if is_usual else None):
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(page(options, taken), encoding="utf-8")
        sys.stderr.write(f"wrote {out}\n")


if __name__ == "__main__":
    main()
