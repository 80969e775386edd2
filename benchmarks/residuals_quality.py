"""What LAG is good for, measured on TinyWorld by an oracle: identity, background, the other object.

    .venv/bin/python benchmarks/residuals_quality.py --quick
    .venv/bin/python benchmarks/residuals_quality.py

Learns unseen objects with Personalized Residuals from pictures on one background each, draws them
on others, alone, beside a plain object and two stacked, with LAG, without it (as plain LoRAs) and
with the base model alone, and writes a table to `docs/results/`. What is finished (a concept, the
pictures of a cell) stands below `runs/` and is not made again; `--report` writes the page from it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from quality_runs import asked, cells_folder, command_of, keep, write_page
from quality_tables import Cells
from residuals_concepts import learned
from residuals_judge import Found
from residuals_page import judged, page
from residuals_plan import (
    FULL,
    LESSONS,
    QUICK,
    VARIANTS,
    Names,
    ResidualsBudget,
    cells,
    config_of,
    prompts_of,
)
from safetensors.torch import load_file
from torch import Tensor

from conceptloom.cli.models import open_host
from conceptloom.concepts.concept import Concept
from conceptloom.concepts.fingerprints import model_digest
from conceptloom.host.ports import Host
from conceptloom.methods.personalized_residuals import Localised, sample_lag
from conceptloom.methods.personalized_residuals.spec import ON_TINYWORLD
from conceptloom.samplers.ddim import seeded_noise
from conceptloom.tinyworld.shapes import BACKGROUNDS

NAME = "residuals_quality"


def drawn(
    host: Host, names: Names, concepts: Sequence[Concept], seed: int, budget: ResidualsBudget
) -> dict[str, Tensor]:
    """Pictures [n, H, W, 3], 0..255, by "variant/prompt/background"."""
    found: dict[str, Tensor] = {}
    for kind, text in prompts_of(names).items():
        for place in LESSONS[names[0]].drawn_on:
            noise = seeded_noise(host, 1000 + seed, budget.pictures, (64, 64))
            for variant, config in VARIANTS.items():
                given = [Localised(concept=concept, config=config) for concept in concepts]
                prompt = [f"a photo of {text} {BACKGROUNDS[place]}"]
                latent = sample_lag(
                    host, given, prompt, noise, steps=budget.sampling_steps, cfg=3.0
                )
                image = (host.decode_latent(latent) * 255).round().byte()
                found[f"{variant}/{kind}/{place}"] = image.contiguous()
    return found


def compute(host: Host, model: str, budget: ResidualsBudget, folder: Path) -> None:
    """Every cell that is not there yet."""
    folder.mkdir(parents=True, exist_ok=True)
    for names, seed in cells(budget):
        path = cell_path(folder, names, seed)
        if path.is_file():
            continue
        began = time.process_time()
        config = config_of(budget, seed)
        concepts = [learned(host, model, name, budget.images, config) for name in names]
        kept = drawn(host, names, concepts, seed, budget)
        keep(path, kept)
        spent = time.process_time() - began
        print(f"{' + '.join(names)}, seed {seed}: {spent:.0f} s of CPU", flush=True)


def cell_path(folder: Path, names: Names, seed: int) -> Path:
    return folder / f"{'+'.join(names)}-{seed}.pictures.safetensors"


def finished(budget: ResidualsBudget, folder: Path) -> Cells:
    """Cells that are there, as the present oracle sees them."""
    found: dict[tuple[str, int, str], Found] = {}
    for names, seed in cells(budget):
        path = cell_path(folder, names, seed)
        if path.is_file():
            for variant, row in judged(names, load_file(path)).items():
                found["+".join(names), seed, variant] = row
    return found


def main() -> None:
    options = asked(NAME, __doc__, "two concepts and a seed, a minute", divisible=False)
    budget = QUICK if options.quick else FULL
    host = open_host(device="cpu")
    digest = model_digest(host)
    work = [budget.steps, budget.images, budget.pictures, budget.sampling_steps]
    folder = cells_folder(NAME, json.dumps([digest, work, asdict(ON_TINYWORLD)]))
    if not options.report:
        compute(host, digest, budget, folder)
    wanted = len(list(cells(budget)))
    text = page(finished(budget, folder), budget, wanted, command_of(NAME, options), digest)
    write_page(text, options.out)


if __name__ == "__main__":
    main()
