"""ConceptLab's similarity on real networks, by the paper's protocol.

    python benchmarks/similarity_conceptlab.py --prior kandinsky-2-1-prior \\
        --decoder kandinsky-2-1 --blip2 blip2-flan-t5-xl --device cuda --dtype fp16 \\
        --clip clip-vit-large-patch14 --page docs/results/similarity_conceptlab.md

For every category, pair of negatives and seed a new member is invented as the paper does, with
what BLIP-2 answers besides (where one is named), and in the text encoder's space alone; the same
networks draw the category with the pair as a negative prompt, and its plain words. CLIP tells how
much of the category is in the pictures, how much of the pair, and how near the nearest of 100 nouns
is.

Folders are as diffusers and transformers save them; CLIP may be a name on the Hugging Face hub. All
of it is 75 concepts of 2500 steps, each in two or three ways, and up to 8 GB of pictures:
`--categories pet` is a fifth. What is finished stands below `runs/` and is not made again.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from dataclasses import asdict
from pathlib import Path

import torch
from base_model import DTYPES
from PIL import Image
from quality_runs import short_digest
from similarity_conceptlab_cells import Judge, Learning, Measured, Networks, made
from similarity_conceptlab_page import page, sheet
from similarity_conceptlab_plan import (
    ADAPTIVE,
    CATEGORIES,
    FULL,
    QUICK,
    VARIANTS,
    Cell,
    InventionSimilarityBudget,
    cells_of,
)
from similarity_measures import Clip
from similarity_runs import QUICK_TOLD, add_encoder_options, add_kept_options, write_results
from torch import Tensor

from conceptloom.concepts.fingerprints import modules_digest
from conceptloom.vision.prior_files import load_decoder, load_prior
from conceptloom.vision.vqa import load_blip2


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prior", type=Path, required=True, help="Kandinsky's or Karlo's prior")
    parser.add_argument("--decoder", type=Path, required=True, help="Kandinsky's, of its version")
    parser.add_argument("--blip2", type=Path, help="who says what pictures show")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--dtype", default="fp32", choices=("fp32", "fp16"))
    known = [category.word for category in CATEGORIES]
    parser.add_argument("--categories", nargs="+", choices=known, default=known)
    add_encoder_options(parser, clip="CLIP ViT-L/14")
    add_kept_options(parser)
    return parser.parse_args()


def networks_of(options: argparse.Namespace, budget: InventionSimilarityBudget) -> Networks:
    """All that was named, after a look at whether it belongs together.

    Raises:
        ModelError: a folder holds something else, or prior and decoder are of two versions.
        UnsupportedModelError: the prior has no image encoder, which the decoder needs.
    """
    device, dtype = torch.device(options.device), DTYPES[options.dtype]
    decoder = load_decoder(options.decoder, dtype)
    prior = load_prior(options.prior, device, dtype, decoder=decoder)
    questions = load_blip2(options.blip2, device, dtype) if options.blip2 else None
    found = Networks(prior, decoder, questions)
    found.image_generator(budget)
    prior.blank()
    return found


def key_of(
    options: argparse.Namespace, networks: Networks, budget: InventionSimilarityBudget
) -> str:
    """Other networks or another budget have another folder; the rest is in names of files."""
    decoder = modules_digest("decoder", [networks.decoder.unet, networks.decoder.movq])
    settings = [options.dtype, networks.prior.digest, decoder, asdict(budget)]
    return short_digest(json.dumps(settings))


def main() -> None:
    options = arguments()
    budget = QUICK if options.quick else FULL
    judge = Judge(Clip(options.clip, options.device))
    networks = networks_of(options, budget)
    categories = tuple(c for c in CATEGORIES if c.word in options.categories)
    variants = tuple(v for v in VARIANTS if v != ADAPTIVE or options.blip2)
    folder = options.cells / "conceptlab" / key_of(options, networks, budget)
    judged: dict[Cell, Measured] = {}
    learnings: dict[Cell, Learning] = {}
    firsts: dict[Cell, Tensor] = {}
    cells = cells_of(categories, variants, budget)
    for number, cell in enumerate(cells, 1):
        pictures, learnings[cell] = made(networks, cell, budget, folder)
        judged[cell], firsts[cell] = judge.judged(pictures, cell), pictures[0].clone()
        print(f"{number}/{len(cells)} {cell.wish}, {cell.seed}, {cell.variant}", flush=True)
    shown = options.page.with_suffix(".jpg") if options.page else None
    command, picture = shlex.join(sys.argv), shown.name if shown else ""
    told = describe_template(options, networks)
    text = page(judged, learnings, budget, told, command, options.device, picture)
    write_results(text, options)
    if shown:
        Image.fromarray((sheet(firsts) * 255).round().byte().numpy()).save(shown, quality=90)


def describe_template(options: argparse.Namespace, networks: Networks) -> list[str]:
    """Lines on the networks, for the page."""
    size = sum(weight.numel() for weight in networks.prior.prior.parameters()) / 1e6
    answers = f"BLIP-2 `{options.blip2.name}`" if options.blip2 else "nobody"
    told = (
        f"Prior `{options.prior.name}` ({networks.prior.fingerprint}, {size:.4g} M parameters), "
        f"decoder `{options.decoder.name}`, {options.dtype}; CLIP `{options.clip}`; asked: "
        f"{answers}."
    )
    return [told, *(QUICK_TOLD if options.quick else ())]


if __name__ == "__main__":
    main()
