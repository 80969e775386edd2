"""The base model of a benchmark, the same options everywhere: --preset, --checkpoint, --device.

A preset is a random model of the structure of Stable Diffusion in one of several sizes, or
TinyWorld; a checkpoint is a real one from the disk. Nothing is downloaded.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import torch
from models import PRESETS, make_host

from conceptloom.cli.models import TINYWORLD, Precision, open_host
from conceptloom.host.diffusers import DiffusersHost

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def add_model_options(
    parser: argparse.ArgumentParser, preset: str = "", dtypes: Sequence[str] = ("fp32", "bf16")
) -> None:
    """What a benchmark measures, and where; `open_model` opens it.

    Args:
        preset: the default one; "" leaves --preset to the benchmark.
    """
    if preset:
        parser.add_argument("--preset", default=preset, choices=[*PRESETS, TINYWORLD])
    parser.add_argument(
        "--checkpoint", type=Path, help="a real model in place of the preset: folder or file"
    )
    parser.add_argument("--layout", type=Path, help="for a single file: see `conceptloom train`")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--dtype", default="fp32", choices=dtypes)


def open_model(
    options: argparse.Namespace, dtype: str = "", preset: str = "", seed: int = 0
) -> DiffusersHost:
    """The model that was asked for.

    Args:
        dtype: instead of the option's.
        preset: instead of the option's.
        seed: of a preset's random weights.
    """
    name, precision = preset or options.preset, dtype or options.dtype
    if options.checkpoint is None and name != TINYWORLD:
        return make_host(PRESETS[name], options.device, DTYPES[precision], seed)
    model = TINYWORLD if options.checkpoint is None else str(options.checkpoint)
    host = open_host(
        model, layout=options.layout, device=options.device, precision=Precision(precision)
    )
    return cast(DiffusersHost, host)


def model_arguments(options: argparse.Namespace) -> list[str]:
    """The same options for another process."""
    names = ("preset", "checkpoint", "layout", "device", "dtype")
    given = {name: getattr(options, name) for name in names}
    return [part for name, value in given.items() if value for part in (f"--{name}", str(value))]


def page_of(
    options: argparse.Namespace, given: Path | None, page: Path, preset: str
) -> Path | None:
    """Where a page goes: as asked for, or to the repository's own if the model is the usual one."""
    is_usual = options.checkpoint is None and options.preset == preset
    return given or (page if is_usual else None)


def latent_side(host: DiffusersHost) -> int:
    """Cells of a side of the latents that the model was made for."""
    return int(host.unet.config.sample_size)


def picture_side(host: DiffusersHost) -> int:
    """The same in pixels."""
    return latent_side(host) * host.pixels_per_latent


def describe_model(options: argparse.Namespace, host: DiffusersHost, preset: str = "") -> str:
    """What was measured, for a page."""
    name = f"Preset `{preset or options.preset}`, random weights"
    if options.checkpoint is not None:
        name = f"Checkpoint `{options.checkpoint.name}`"
    elif (preset or options.preset) == TINYWORLD:
        name = "TinyWorld"
    networks = (host.unet, host.vae, *(encoder.model for encoder in host._encoders))
    unet, vae, *texts = (sum(p.numel() for p in n.parameters()) / 1e6 for n in networks)
    widths = ", ".join(map(str, host.unet.config.block_out_channels))
    encoders = " + ".join(f"{count:.4g}" for count in texts)
    return (
        f"{name}: UNet {unet:.4g} M parameters (widths {widths}), text encoder {encoders} M, VAE "
        f"{vae:.4g} M"
    )


def remark_on(options: argparse.Namespace) -> str:
    """What to know when reading the figures of a preset."""
    if options.checkpoint is not None or options.preset == TINYWORLD:
        return ""
    return PRESETS[options.preset].remark
