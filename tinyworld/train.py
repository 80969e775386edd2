"""The recipe as one command: `python -m conceptloom.tinyworld.train`.

Renders the data, trains the autoencoder, encodes, trains the diffusion model, exports the
checkpoint and, with `--install`, makes it the bundled one and writes its figures. Everything lies
in the working folder; when it is interrupted, the same command goes on exactly where it stopped.
The bundled checkpoint comes from two CPU cores; on a GPU, larger:

    python -m conceptloom.tinyworld.train --device cuda --size 128 --vae-channels 32 64 64 128 \\
        --samples 400000 --batch 256 --minutes 60 --vae-minutes 10 --workdir runs/tinyworld128
"""

from __future__ import annotations

import argparse
import logging
import shutil
from pathlib import Path

import torch

from . import gates
from .checkpoint import CHECKPOINT
from .data import render_shards
from .diffusion_training import encode_latents, save_autoencoder, train_diffusion
from .loop import Team, train_in_processes
from .model import ModelConfig
from .vae_training import train_vae

log = logging.getLogger("conceptloom")


def parser() -> argparse.ArgumentParser:
    """All knobs; docs/results/tinyworld.md says which made the bundled checkpoint."""
    p = argparse.ArgumentParser(
        prog="python -m conceptloom.tinyworld.train", description=(__doc__ or "").split("\n")[0]
    )
    add = p.add_argument
    add("--workdir", type=Path, default=Path("runs/tinyworld"), help="resumable working folder")
    add("--minutes", type=float, default=64, help="diffusion training, all runs together")
    add("--vae-minutes", type=float, default=7, help="autoencoder training")
    add("--samples", type=int, default=72000, help="scenes to render")
    add("--size", type=int, default=64, help="picture side in px")
    add("--device", default="cpu", help="cpu or cuda")
    add("--processes", type=int, default=2, help="one-thread training processes on a CPU")
    add("--batch", type=int, default=16, help="samples per process and step")
    add("--learning-rate", type=float, default=2.5e-3, help="peak, Muon and AdamW alike")
    add("--unet-channels", type=int, nargs="+", default=[64, 128], help="multiples of 32")
    add("--vae-channels", type=int, nargs="+", default=[32, 32, 64], help="downscale = 2^(n-1)")
    add("--latent-channels", type=int, default=4)
    add("--seed", type=int, default=0)
    add("--start", type=Path, help="checkpoint of the same sizes whose weights to begin with")
    add("--install", action="store_true", help="replace the bundled checkpoint when finished")
    return p


def main(arguments: list[str] | None = None) -> None:
    """Run every stage that is not finished yet."""
    args = parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    config = ModelConfig(
        resolution_px=args.size,
        latent_channels=args.latent_channels,
        unet_channels=tuple(args.unet_channels),
        unet_attention=(True,) * len(args.unet_channels),
        vae_channels=tuple(args.vae_channels),
        vae_norm_groups=2,
    )
    workdir: Path = args.workdir
    render_shards(workdir / "data", args.samples, args.size, args.seed, args.processes)

    if args.device == "cpu":

        def run(stage, *rest):
            train_in_processes(stage, args.processes, rest)
    else:
        torch.set_float32_matmul_precision("high")

        def run(stage, *rest):
            stage(Team(device=args.device), *rest)

    if args.start is not None:
        save_autoencoder(args.start, workdir)
    elif not (workdir / "latents").exists():  # latents of an autoencoder that moves on are useless
        run(train_vae, config, workdir, args.vae_minutes, args.batch, args.seed)
    run(encode_latents, config, workdir)
    run(
        train_diffusion,
        config,
        workdir,
        args.minutes,
        args.batch,
        args.learning_rate,
        args.seed,
        args.start,
    )
    log.info("finished: %s", workdir / "tinyworld.safetensors")
    if args.install:
        shutil.copyfile(workdir / "tinyworld.safetensors", CHECKPOINT)
        gates.main([])


if __name__ == "__main__":
    main()
