"""How a command of similarity is asked, where its pictures are kept, and where its page goes."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from base_model import add_model_options, describe_model
from quality_runs import keep, write_page
from safetensors.torch import load_file
from similarity_measures import Clip, Cutter, Dino, MaskFormer, Measures, Words
from torch import Tensor

from conceptloom.concepts.fingerprints import model_digest, modules_digest
from conceptloom.host.diffusers import DiffusersHost
from conceptloom.host.ports import Host

ROOT = Path(__file__).resolve().parent.parent
CELLS = ROOT / "runs" / "similarity"
QUICK_TOLD = ("", "**A few steps, to see that it runs: these figures mean nothing.**")


def add_run_options(parser: argparse.ArgumentParser) -> None:
    """The base model, and all of `add_kept_options`."""
    add_model_options(parser, preset="tinyworld", dtypes=("fp32", "bf16", "fp16"))
    parser.add_argument("--resolution", type=int, help="px; default: the model's own")
    parser.add_argument("--seed", type=int, default=0)
    add_kept_options(parser)


def add_kept_options(parser: argparse.ArgumentParser) -> None:
    """How much is done, where it is kept and where the page goes."""
    parser.add_argument("--quick", action="store_true", help="a few steps, to see that it runs")
    parser.add_argument("--cells", type=Path, default=CELLS, help="where finished work stands")
    parser.add_argument("--page", type=Path, help="write the results there")


def add_encoder_options(parser: argparse.ArgumentParser, *, clip: str = "", dino: str = "") -> None:
    """The networks that compare.

    Args:
        clip, dino: what the method's paper compares with; "" where it does not.
    """
    for option, network in (("--clip", clip), ("--dino", dino)):
        if network:
            parser.add_argument(option, required=True, help=f"folder of {network}, or a hub name")


def add_cutter_options(parser: argparse.ArgumentParser) -> None:
    """What finds the objects in drawn pictures; `check_cutter` after parsing."""
    parser.add_argument("--maskformer", help="folder of MaskFormer, or a hub name")
    parser.add_argument("--detector", type=Path, help="folder of Grounding DINO, with --sam")
    parser.add_argument("--sam", type=Path, help="folder of SAM")


def check_cutter(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """Leave with a message where two segmenters are named, or half of one."""
    if (options.maskformer and options.sam) or bool(options.detector) != bool(options.sam):
        parser.error("give --maskformer, or --detector with --sam")


def cutter_of(options: argparse.Namespace, device: str) -> Cutter | None:
    """The segmenter that was named, if any."""
    if options.maskformer:
        return MaskFormer(options.maskformer, device)
    return Words(options.detector, options.sam, device) if options.sam else None


def measures_of(options: argparse.Namespace, device: str) -> Measures:
    """All networks that were named."""
    clip, dino = Clip(options.clip, device), Dino(options.dino, device)
    return Measures(clip, dino, cutter_of(options, device))


def checkpoint_digest(host: DiffusersHost) -> str:
    """Tells two checkpoints apart, also two that differ in their VAE alone."""
    return f"{model_digest(host)} {modules_digest('vae', [host.vae])}"


def decoded(host: Host, latents: Tensor) -> Tensor:
    """[n, H, W, 3] of latents, one after the other, so that a large VAE has room."""
    return torch.cat([host.decode_latent(one[None]) for one in latents])


def kept_pictures(path: Path, draw: Callable[[], Iterable[Tensor]]) -> list[Tensor]:
    """Pictures from the file, or drawn now and kept there, in eight bits as everybody sees them.

    Args:
        draw: gives the pictures [n, H, W, 3] of one prompt after the other; asked only where
            there is no file.
    """
    if not path.is_file():
        found = {f"{number:03d}": (images * 255).round().byte()
                 for number, images in enumerate(draw())}  # fmt: skip
        keep(path, found)
    kept = load_file(path)
    return [kept[f"{number:03d}"].float() / 255 for number in range(len(kept))]


def describe_run(
    options: argparse.Namespace, host: DiffusersHost, side: int, networks: str
) -> list[str]:
    """Lines on the model and the networks that compare, for a page.

    Args:
        side: of the pictures, in pixels.
        networks: a sentence on those that compare.
    """
    told = f"{describe_model(options, host)}; {options.dtype}, {side} px. {networks}"
    return [told, *(QUICK_TOLD if options.quick else ())]


def write_results(text: str, options: argparse.Namespace) -> None:
    """Show a page, and write it where --page says."""
    print(text)
    if options.page:
        write_page(text, options.page)


def describe_cutter(options: argparse.Namespace) -> str:
    """The segmenter, for a page."""
    if options.maskformer:
        return f"MaskFormer `{options.maskformer}`"
    return f"Grounding DINO and SAM `{options.sam.name}`" if options.sam else "nothing"
