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
import json
import os
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

from measuring import memory, processor, settle

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
# channels of the first level, at a fifth of SD 1.5's width and at its own
PRESETS = {"35m": 64, "sd15": 320}
SIZES = {"num_heads": 8, "channel_mult": [1, 2, 4, 4]}  # heads and levels of SD 1.5
TEXT = "a photo of a cat"


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", default="35m", choices=list(PRESETS))
    parser.add_argument("--checkpoint", type=Path, help="a real model in place of the preset")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--latent", type=int, default=32, help="cells a side of a latent")
    parser.add_argument("--rounds", type=int, default=5, help="steps of each that count")
    parser.add_argument("--variants", nargs="*", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--out", type=Path, help=f"by default {PAGE.name} for the 35m preset")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    return parser.parse_args(argv)


# ---------------------------------------------------------------- the process of one variant


def work(options: argparse.Namespace) -> None:
    """Train for ever; make a step for every line that comes in, and tell what it took."""
    kind, checkpointing, bypass = VARIANTS[options.worker]
    sys.argv = sys.argv[:1]  # ComfyUI reads the command line when it is imported
    comfyui = Path(os.environ.get("COMFYUI_PATH", "~/comfy/ComfyUI")).expanduser()
    sys.path[:] = [str(comfyui), *sys.path[1:], str(ROOT / "tests" / "host")]
    from comfy.cli_args import args

    args.cpu = options.device == "cpu"
    import torch
    from torch.optim.optimizer import register_optimizer_step_post_hook

    torch.set_num_threads(1)
    _import_pack()
    with torch.inference_mode():
        models = _models(options)
    turn = _Turn(options.device)
    register_optimizer_step_post_hook(turn)
    turn.wait()
    train = _train_core if kind == "core" else _train_ours
    train(models, options, checkpointing, bypass)


def _import_pack() -> None:
    """ComfyUI's Python has no `conceptloom` installed; give it the one that lies here."""
    import importlib.util

    spec = importlib.util.spec_from_file_location(
        "conceptloom", ROOT / "__init__.py", submodule_search_locations=[str(ROOT)]
    )
    assert spec is not None
    assert spec.loader is not None
    sys.modules["conceptloom"] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)


def _models(options: argparse.Namespace) -> Any:
    """MODEL, CLIP and VAE; the core node copies a MODEL by loading it anew."""
    import tiny_models

    if options.checkpoint is not None:
        import comfy.sd

        loaded = comfy.sd.load_checkpoint_guess_config(str(options.checkpoint))
        return tiny_models.Graph(*loaded[:3])
    kind, sizes, *text = tiny_models.FAMILIES["sd1"]
    sizes = sizes | SIZES | {"model_channels": PRESETS[options.preset]}
    tiny_models.FAMILIES["benchmark"] = (kind, sizes, *text)
    models = tiny_models.make_graph("benchmark")

    def load(disable_dynamic: bool = False) -> Any:
        return tiny_models.make_graph("benchmark").model

    models.model.cached_patcher_init = (load, ())
    return models


def _train_core(models: Any, options: argparse.Namespace, checkpointing: bool, bypass: bool):
    import torch
    from comfy_extras.nodes_train import TrainLoraNode

    with torch.inference_mode():
        latents = {"samples": torch.randn(options.batch, 4, options.latent, options.latent)}
        prompt = models.clip.encode_from_tokens_scheduled(models.clip.tokenize(TEXT))
    given = {
        "model": models.model, "batch_size": options.batch, "steps": 10_000,
        "grad_accumulation_steps": 1, "learning_rate": 1e-3, "rank": options.rank,
        "optimizer": "AdamW", "loss_function": "MSE", "seed": 0, "training_dtype": "fp32",
        "lora_dtype": "fp32", "quantized_backward": False, "algorithm": "LoRA",
        "gradient_checkpointing": checkpointing, "checkpoint_depth": 1, "offloading": False,
        "existing_lora": "[None]", "bucket_mode": False, "bypass_mode": bypass,
    }  # fmt: skip
    lists: dict[str, Any] = {name: [value] for name, value in given.items()}
    TrainLoraNode.execute(latents=[latents], positive=[prompt], **lists)


def _train_ours(models: Any, options: argparse.Namespace, checkpointing: bool, bypass: bool):
    import torch

    from conceptloom.host.comfyui.host import ComfyHost
    from conceptloom.methods.personalized_residuals import (
        PersonalizedResidualsConfig,
        learn_residuals,
    )

    with torch.inference_mode():
        host = ComfyHost(models.model, models.clip, models.vae)
    side = options.latent * host.pixels_per_latent
    images = [torch.rand(side, side, 3) for _ in range(options.batch)]
    config = PersonalizedResidualsConfig(
        steps=10_000,
        batch_size=options.batch,
        ratio=float(options.rank),  # from 1 on the rank itself
        checkpointing=checkpointing,
    )
    with torch.inference_mode(False):
        learn_residuals(host, images, "my-cat", "cat", config)


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
        told = {"seconds": wall, "cpu": cpu, "peak": peak, "trained": trained}
        os.write(PIPE, (json.dumps(told) + "\n").encode())
        self.wait()


PIPE = 3  # what comes back; ComfyUI writes to the other ones


# ---------------------------------------------------------------- taking turns


class Worker:
    """One variant in its process."""

    def __init__(self, name: str, options: argparse.Namespace) -> None:
        keys = ("preset", "device", "rank", "batch", "latent", "checkpoint")
        given = [f"--{key}={getattr(options, key)}" for key in keys if getattr(options, key)]
        read, write = os.pipe()
        # the shell moves the pipe to where the worker expects it
        command = ["sh", "-c", f'exec "$@" {PIPE}>&{write}', "sh", sys.executable, __file__]
        self.process = subprocess.Popen(
            [*command, "--worker", name, *given],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL if not os.environ.get("SHOW") else None,
            pass_fds=(write,),
            text=True,
        )
        os.close(write)
        self._told = os.fdopen(read)
        self.rows: list[dict[str, Any]] = []

    def step(self) -> None:
        assert self.process.stdin
        self.process.stdin.write("step\n")
        self.process.stdin.flush()
        line = self._told.readline()
        if not line:
            raise SystemExit(f"{self.process.args} ended early; run it with SHOW=1 to see why")
        self.rows.append(json.loads(line))

    def close(self) -> None:
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait()

    def median(self, key: str) -> float:
        """Of the steps after the first, which sets everything up."""
        return statistics.median(row[key] for row in self.rows[1:])


def table(workers: dict[str, Worker], device: str) -> list[str]:
    clock = "cpu" if device == "cpu" else "seconds"
    told = "s of CPU" if device == "cpu" else "s"
    lines = [
        f"| variant | trained numbers | step, {told} | of ours | peak, MiB over the model |",
        "|---|---|---|---|---|",
    ]
    ours = workers["ours"].median(clock) if "ours" in workers else float("nan")
    for name, worker in workers.items():
        step, peak = worker.median(clock), max(row["peak"] for row in worker.rows) / 2**20
        lines.append(
            f"| {name} | {worker.rows[-1]['trained']:,} | {step:.2f} | {step / ours:.2f} "
            f"| {peak:.0f} |"
        )
    return lines


def page(options: argparse.Namespace, workers: dict[str, Worker], version: str) -> str:
    model = f"random model of SD 1.5's structure, {PRESETS[options.preset]} channels of its 320"
    if options.checkpoint:
        model = f"checkpoint `{options.checkpoint.name}`"
    head = (
        f"{date.today()}, {processor(options.device)}, ComfyUI {version}, float32, one CPU thread; "
        f"rank {options.rank}, batch {options.batch}, latents {options.latent}x{options.latent}, "
        f"{model}. Median of {options.rounds} steps in turns, after one that does not count; the "
        "peak is what the process took at most on top of the loaded models, over all steps."
    )
    told = (
        "*Train LoRA* has no scope: it puts factors beside every weight of the UNet, we beside the "
        "output projections alone. *Bypass* is its variant with hooks in place of changed weights. "
        "It copies the MODEL by loading it once more, which is part of its peak."
    )
    lines = ["# A step of Personalized Residuals beside core Train LoRA", ""]
    command = shlex.join(["python", "benchmarks/residuals_step.py", *sys.argv[1:]])
    lines += [f"    COMFYUI_PATH=~/comfy/ComfyUI {command}", ""]
    return "\n".join([*lines, head, "", *table(workers, options.device), "", told, ""])


def main(do: Callable[[argparse.Namespace], None] = work) -> None:
    options = arguments()
    if options.worker:
        do(options)
        return
    workers = {name: Worker(name, options) for name in options.variants}
    try:
        for turn in range(options.rounds + 1):
            for worker in workers.values():
                worker.step()
            sys.stderr.write(f"round {turn} of {options.rounds}\n")
    finally:
        for worker in workers.values():
            worker.close()
    comfyui = Path(os.environ.get("COMFYUI_PATH", "~/comfy/ComfyUI")).expanduser()
    version = (comfyui / "comfyui_version.py").read_text().split('"')[1]
    sys.stderr.write("\n".join(table(workers, options.device)) + "\n")
    is_usual = options.checkpoint is None and options.preset == "35m"
    if out := options.out or (PAGE if is_usual else None):
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(page(options, workers, version), encoding="utf-8")
        sys.stderr.write(f"wrote {out}\n")


if __name__ == "__main__":
    main()
