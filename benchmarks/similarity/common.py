"""What similarity benchmarks share: options, folders of pictures, digests and tables."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from harness.models import add_model_options, describe_model
from harness.results import RUNS
from harness.statistics import Cells
from harness.subject import Options, add_common_options
from torch import Tensor

from conceptloom.concepts.fingerprints import model_digest, modules_digest
from conceptloom.errors import InputError
from conceptloom.host.diffusers import DiffusersHost
from conceptloom.host.ports import Host

from .encoders import Clip, Cutter, Dino, MaskFormer, Measures, Words

CELLS = RUNS / "similarity"
QUICK = "**A few steps, to see that it runs: these figures mean nothing.**"
SPREAD = "Mean ± standard deviation over the scenes; with one scene there is no spread."
Found = Mapping[str, Sequence[float]]  # column -> a number for every picture, or for every object
Rows = Mapping[str, Mapping[str, Found]]  # variant -> scene -> what its pictures gave
Read = TypeVar("Read")


def cells_of(rows: Rows) -> Cells:
    """The same with keys as statistics have them."""
    return {
        (scene, 0, variant): found
        for variant, scenes in rows.items()
        for scene, found in scenes.items()
    }


def add_run_options(parser: argparse.ArgumentParser, *, model: bool = True) -> None:
    """How much is done, where it is kept, and the base model."""
    add_common_options(parser)
    parser.add_argument("--cells", type=Path, default=CELLS, help="where finished work is kept")
    if model:
        add_model_options(parser, preset="tinyworld", dtypes=("fp32", "bf16", "fp16"))
        parser.add_argument("--resolution", type=int, help="px; default: the model's own")
        parser.add_argument("--seed", type=int, default=0)


def add_encoder_options(parser: argparse.ArgumentParser, *, clip: str = "", dino: str = "") -> None:
    """The networks that compare.

    Args:
        clip, dino: what the method's paper compares with; "" where it does not.
    """
    for option, network in (("--clip", clip), ("--dino", dino)):
        if network:
            parser.add_argument(option, required=True, help=f"folder of {network}, or a hub name")


def add_cutter_options(parser: argparse.ArgumentParser) -> None:
    """What finds the objects in drawn pictures; see `check_cutter`."""
    parser.add_argument("--maskformer", help="folder of MaskFormer, or a hub name")
    parser.add_argument("--detector", type=Path, help="folder of Grounding DINO, with --sam")
    parser.add_argument("--sam", type=Path, help="folder of SAM")


def check_cutter(options: Options) -> None:
    """Leave with a message where two segmenters are named, or half of one."""
    if (options.maskformer and options.sam) or bool(options.detector) != bool(options.sam):
        raise SystemExit("give --maskformer, or --detector with --sam")


def cutter_of(options: Options, device: str) -> Cutter | None:
    """The segmenter that was named, if any."""
    if options.maskformer:
        return MaskFormer(options.maskformer, device)
    return Words(options.detector, options.sam, device) if options.sam else None


def measures_of(options: Options, device: str) -> Measures:
    """All networks that were named."""
    clip, dino = Clip(options.clip, device), Dino(options.dino, device)
    return Measures(clip, dino, cutter_of(options, device))


def checkpoint_digest(host: DiffusersHost) -> str:
    """Tells two checkpoints apart, also two that differ in their VAE alone."""
    return f"{model_digest(host)} {modules_digest('vae', [host.vae])}"


def decoded(host: Host, latents: Tensor) -> Tensor:
    """[n, H, W, 3] of latents, one after the other, so that a large VAE has room."""
    return torch.cat([host.decode_latent(one[None]) for one in latents])


def describe_cutter(options: Options) -> str:
    """The segmenter, for a page."""
    if options.maskformer:
        return f"MaskFormer `{options.maskformer}`"
    return f"Grounding DINO and SAM `{options.sam.name}`" if options.sam else "nothing"


def describe_run(options: Options, host: DiffusersHost, side: int, networks: str) -> Iterator[str]:
    """Paragraphs on the model and the networks that compare.

    Args:
        side: of the pictures, in pixels.
        networks: a sentence on those that compare.
    """
    yield f"{describe_model(options, host)}; {options.dtype}, {side} px. {networks}"
    if options.quick:
        yield QUICK


def each_folder(
    folder: Path, name: str, read: Callable[[Path], Read], shown_in: str
) -> dict[str, Read]:
    """Name of a folder -> what its file says.

    Args:
        name: of the file in every folder.
        shown_in: the program at whose top one is shown.

    Raises:
        InputError: there is none.
    """
    found = {file.parent.name: read(file) for file in sorted(folder.glob(f"*/{name}"))}
    if not found:
        told = f"the top of {shown_in} shows one"
        raise InputError(f"{folder} holds no folder with a {name}; {told}.")
    return found


def document_of(file: Path) -> Any:
    """What a JSON file holds.

    Raises:
        InputError: it is none.
    """
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{file} is not JSON: {error}.") from error
