"""CLiC on a real checkpoint: is the detail there, and is the rest as it was?

    python benchmarks/similarity_clic.py --checkpoint stable-diffusion-v1-4 --device cuda \\
        --dtype fp16 --pairs PAIRS --clip clip-vit-large-patch14 --dino dino-vitb16 \\
        --lpips alexnet-owt-7be5be79.pth --page docs/results/similarity_clic.md

PAIRS holds a folder for each pair, with a taught picture and a target, a mask in both, and a
`pair.json` that ties them together; similarity_clic_files.py shows one. Every taught picture is
learned once with the official numbers; its detail is drawn onto the target with the official sweep
of t_start, and beside it what the base model makes of the object's own words under the same mask.

LPIPS of what is outside of the mask needs `pip install lpips` and AlexNet's weights as torchvision
has them, from a file or ("torchvision") downloaded; without --lpips that column stays empty. What
is finished (a concept, the pictures of a pair) stands below `runs/` and is not made again.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path

import torch
from base_model import open_model, picture_side
from similarity_clic_cells import Work, work_of
from similarity_clic_files import pairs_of
from similarity_clic_page import ATTENTION, BEFORE, DETAIL, Measures, Sweep, measured, page
from similarity_clic_plan import CLIC, PAPER_TIME, full_budget, quick_budget, rows_of
from similarity_costs import cost_lines, costs_of
from similarity_crops import Lpips
from similarity_measures import Clip, Dino
from similarity_runs import add_encoder_options, add_run_options, describe_run, write_results
from similarity_tables import Row
from torch import Tensor


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=Path, required=True, help="a folder of pair folders")
    add_run_options(parser)
    add_encoder_options(parser, clip="CLIP ViT-L/14", dino="DINO ViT-B/16")
    parser.add_argument("--lpips", help="file of AlexNet's weights, or `torchvision`")
    return parser.parse_args()


def measures_of(options: argparse.Namespace, device: str) -> Measures:
    """What was named to compare with."""
    distance = Lpips(options.lpips, device) if options.lpips else None
    return Measures(Clip(options.clip, device), Dino(options.dino, device), distance)


def swept(works: Iterable[Work], measures: Measures, made: Iterable[Sequence[Tensor]]) -> list[Row]:
    """For every value what the pictures of all pairs gave, and how much the word is looked at.

    Args:
        made: for each pair the pictures of every value.
    """
    rows: list[dict[str, list[float]]] = []
    for work, pictures in zip(works, made, strict=True):
        rows = rows or [{} for _ in pictures]
        looked = iter(work.attention(torch.cat(list(pictures))))
        for row, images in zip(rows, pictures, strict=True):
            found = measured(measures, work.pair, images)
            for key, figures in {**found, ATTENTION.key: islice(looked, len(images))}.items():
                row.setdefault(key, []).extend(figures)
    return list(rows)


def main() -> None:
    options = arguments()
    pairs = pairs_of(options.pairs)
    measures_of(options, "cpu")  # what is in the way is told before hours of learning
    host = open_model(options)
    side = options.resolution or picture_side(host)
    budget = (quick_budget if options.quick else full_budget)(side, options.seed)
    works: dict[str, Work] = {}
    for name, pair in pairs.items():
        fitted = pair.at(side, host.pixels_per_latent)
        works[name] = work_of(host, name, fitted, budget, options.seed, options.cells)
    for name, work in works.items():
        for make in (work.pictures, work.over_eta, work.over_start):
            make()
        print(f"{name}: drawn", flush=True)
    measures = measures_of(options, options.device)
    rows: dict[str, dict[str, Row]] = {row: {} for row in rows_of(budget)}
    for name, work in works.items():
        for row, images in work.pictures().items():
            rows[row][name] = measured(measures, work.pair, images)
    every = works.values()
    by_eta = swept(every, measures, (work.over_eta() for work in every))
    by_start = swept(every, measures, (work.over_start() for work in every))
    sweeps = [
        Sweep("eta", budget.etas, by_eta, [(ATTENTION, False), (DETAIL, False)]),
        Sweep("t_start", budget.sweep_starts, by_start, [(BEFORE, False), (DETAIL, True)]),
    ]
    networks = f"CLIP `{options.clip}`, DINO `{options.dino}`, LPIPS {options.lpips or 'left out'}."
    told = describe_run(options, host, side, networks)
    text = page(rows, sweeps, budget, told, shlex.join(sys.argv), options.device)
    costs = costs_of(dict.fromkeys(work.learned for work in every))
    write_results("\n".join([text, "", *cost_lines({CLIC: costs}, PAPER_TIME), ""]), options)


if __name__ == "__main__":
    main()
