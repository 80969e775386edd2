"""The recipe as one command: `python -m conceptloom.tinyworld.recipe.train`.

It trains the autoencoder, renders and encodes shards of the world while it goes, trains the
diffusion model on them, and every few minutes saves its state and a checkpoint in the working
folder. When it is interrupted, the same command goes on where it stopped; with more minutes, so
does a finished run. On another machine `--start` begins with the weights of the repository, which
hold what training has reached so far, and `--start FILE` with those of another checkpoint.
On a GPU at hand for nine minutes, at several times the size:

    python -m conceptloom.tinyworld.recipe.train --minutes 9 --device cuda

With `--family anima` or `--family zimage` it trains that transformer instead, on latents of the
bundled autoencoder. Shards of the UNet's training with that autoencoder and the same seed serve it
too: copy or link them into the `shards` of its own working folder.
"""

from __future__ import annotations

import argparse
import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from ..autoencoder import read_autoencoder
from ..checkpoint import CHECKPOINT
from ..dit.sizes import FAMILIES, SIZES
from ..model import ModelConfig
from .diffusion_training import DiffusionTask, save_autoencoder, train_diffusion
from .loop import Team, train_in_processes
from .transformer_training import train_transformer
from .vae_training import train_vae

log = logging.getLogger("conceptloom")


@dataclass(frozen=True, kw_only=True)
class Defaults:
    """What suits a kind of machine."""

    minutes: float
    vae_minutes: float
    falling: float
    batch: int
    learning_rate: float
    unet_channels: tuple[int, ...]
    unet_layers: int
    workers: int


DEFAULTS = {
    # The rate stays: a session ends when it must, and the average of the weights is what is saved.
    "cpu": Defaults(
        minutes=150,
        vae_minutes=18,
        falling=0,
        batch=32,
        learning_rate=1.5e-3,
        unet_channels=(96, 96),
        unet_layers=1,
        workers=0,
    ),
    # Nine minutes in all: nobody goes on, so the rate falls.
    "cuda": Defaults(
        minutes=9,
        vae_minutes=1.2,
        falling=2.5,
        batch=512,
        learning_rate=2.5e-3,
        unet_channels=(128, 256),
        unet_layers=2,
        workers=14,
    ),
}


def parser() -> argparse.ArgumentParser:
    """All knobs; those without a value here take it from `DEFAULTS`."""
    p = argparse.ArgumentParser(
        prog="python -m conceptloom.tinyworld.recipe.train",
        description=(__doc__ or "").split("\n")[0],
    )
    add = p.add_argument
    add("--family", choices=("sd1", *FAMILIES), default="sd1", help="what to train")
    add(
        "--workdir", type=Path, help="resumable working folder; default: runs/tinyworld2 or tiny..."
    )
    add("--device", default="cpu", choices=list(DEFAULTS))
    add("--minutes", type=float, help="of both trainings, all runs together")
    add("--vae-minutes", type=float, help="of them for the autoencoder")
    add("--falling", type=float, help="last minutes, over which the learning rate falls; 0: never")
    add("--processes", type=int, default=1, help="one-thread training processes on a CPU")
    add("--workers", type=int, help="processes that render ahead; 0: the training process does")
    add("--batch", type=int, help="samples per process and step")
    add("--learning-rate", type=float, help="peak, Muon and AdamW alike")
    add("--size", type=int, default=128, help="picture side in px")
    add("--unet-channels", type=int, nargs="+", help="multiples of 32")
    add("--unet-layers", type=int, help="ResNet blocks a level")
    add("--vae-channels", type=int, nargs="+", default=[32, 32, 64, 96])
    add("--latent-channels", type=int, default=16)
    add("--seed", type=int, default=0)
    add(
        "--start",
        type=Path,
        nargs="?",
        const=CHECKPOINT,
        help="checkpoint whose sizes and weights to begin with; without a file, the repository's",
    )
    return p


def main(arguments: list[str] | None = None) -> None:
    """Run every stage that is not finished yet."""
    args = parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    for name, value in vars(DEFAULTS[args.device]).items():
        if getattr(args, name) is None:
            setattr(args, name, value)
    workdir: Path = args.workdir or Path("runs") / WORKDIRS[args.family]
    workdir.mkdir(parents=True, exist_ok=True)

    if args.device == "cpu":

        def run(stage, *rest):
            train_in_processes(stage, args.processes, rest)
    else:
        torch.set_float32_matmul_precision("high")

        def run(stage, *rest):
            stage(Team(device=args.device), *rest)

    if args.family in FAMILIES:
        if args.start is not None:
            raise SystemExit("--start is for the UNet; a transformer goes on from its own folder")
        config = replace(SIZES[args.family], scaling=read_autoencoder().config.scaling_factor)
        run(train_transformer, config, DiffusionTask(workdir=workdir, **_common(args)))
        return
    if args.start is not None:
        config = save_autoencoder(args.start, workdir)
        args.vae_minutes = 0.0
    else:
        config = ModelConfig(
            resolution_px=args.size,
            latent_channels=args.latent_channels,
            unet_channels=tuple(args.unet_channels),
            unet_attention=(True,) * len(args.unet_channels),
            unet_layers=args.unet_layers,
            vae_channels=tuple(args.vae_channels),
            vae_norm_groups=2,
        )
        if not (workdir / "shards").exists():  # latents of an autoencoder that moves on are useless
            batch = VAE_BATCH[args.device]
            run(train_vae, config, workdir, args.vae_minutes, batch, args.seed, args.workers)
    task = DiffusionTask(
        workdir=workdir,
        start=args.start,
        **{**_common(args), "minutes": args.minutes - args.vae_minutes},
    )
    run(train_diffusion, config, task)
    log.info("finished: %s", workdir / "tinyworld.safetensors")


def _common(args: argparse.Namespace) -> dict[str, Any]:
    """What both tasks are told."""
    names = ("minutes", "falling", "batch", "learning_rate", "seed", "workers")
    return {name: getattr(args, name) for name in names}


VAE_BATCH = {"cpu": 8, "cuda": 64}
WORKDIRS = {"sd1": "tinyworld2", "anima": "tinyanima", "zimage": "tinyzimage"}

if __name__ == "__main__":
    main()
