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
from dataclasses import asdict, replace
from pathlib import Path

from quality_runs import asked, cells_folder, command_of, write_page
from quality_tables import machine_told
from residuals_page import judged, results
from residuals_plan import FULL, LESSONS, QUICK, VARIANTS, Budget, Names, cells, prompts_of
from safetensors.torch import load_file, save_file
from torch import Tensor

from conceptloom.cli.measures import as_image
from conceptloom.cli.models import open_host
from conceptloom.cli.residuals_run import TINYWORLD_RESIDUALS
from conceptloom.host.ports import Host
from conceptloom.methods.personalized_residuals import Localised, learn_residuals, sample_lag
from conceptloom.samplers.ddim import seeded_noise
from conceptloom.tinyworld.concepts import concept_scene
from conceptloom.tinyworld.shapes import BACKGROUNDS
from conceptloom.training.concept import Concept
from conceptloom.training.concept_file import load_concept, save_concept
from conceptloom.training.keys import model_digest
from conceptloom.training.previews import PreviewConfig

NAME = "residuals_quality"


def learned(host: Host, name: str, seed: int, budget: Budget, folder: Path) -> Concept:
    """A concept from the folder, or taught now."""
    path, lesson = folder / f"{name}-{seed}.concept.safetensors", LESSONS[name]
    if path.is_file():
        return load_concept(path)
    places = range(10 * seed, 10 * seed + budget.images)
    concept = learn_residuals(
        host,
        [as_image(concept_scene([name], place, lesson.taught_on).image) for place in places],
        f"my-{name}",
        lesson.word,
        replace(TINYWORLD_RESIDUALS, steps=budget.steps, seed=seed),
        previews=PreviewConfig(steps=1, cfg=1.0),
    ).concept
    save_concept(concept, path)
    return concept


def drawn(
    host: Host, names: Names, concepts: Sequence[Concept], seed: int, budget: Budget
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


def compute(host: Host, budget: Budget, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for names, seed in cells(budget):
        path = cell_path(folder, names, seed)
        if path.is_file():
            continue
        began = time.process_time()
        concepts = [learned(host, name, seed, budget, folder) for name in names]
        kept = drawn(host, names, concepts, seed, budget)
        beside = path.with_suffix(".part")
        save_file(kept, beside)
        beside.replace(path)
        spent = time.process_time() - began
        print(f"{' + '.join(names)}, seed {seed}: {spent:.0f} s of CPU", flush=True)


def cell_path(folder: Path, names: Names, seed: int) -> Path:
    return folder / f"{'+'.join(names)}-{seed}.pictures.safetensors"


def page(command: str, budget: Budget, folder: Path, digest: str) -> str:
    """The results as Markdown, of the cells that are finished."""
    every = list(cells(budget))
    done = [cell for cell in every if cell_path(folder, *cell).is_file()]
    rows = [judged(names, load_file(cell_path(folder, names, seed))) for names, seed in done]
    lines = [
        "# LAG on TinyWorld: identity, background and the other object",
        "",
        f"    {command}",
        "",
        f"{machine_told()}; base model {digest[:12]}; {len(done)} of {len(every)} cells: "
        f"{sum(len(names) == 1 for names, _ in done)} of one concept, "
        f"{sum(len(names) == 2 for names, _ in done)} of two, "
        f"{len({seed for _, seed in done})} seed(s). {budget.steps} steps from {budget.images} "
        f"pictures on one background, {budget.pictures} picture(s) for every prompt on each of two "
        f"others, {budget.sampling_steps} DDIM steps; the variants share their noise.",
        "",
        "Mean ± standard deviation over the cells; further down LAG against the plain LoRA of the "
        "same cell ± standard error, decided beyond two of them.",
        "",
        *results(rows),
    ]
    return "\n".join(lines)


def main() -> None:
    options = asked(NAME, __doc__, "two concepts and a seed, a minute", divisible=False)
    budget = QUICK if options.quick else FULL
    host = open_host(device="cpu")
    digest = model_digest(host)
    work = [budget.steps, budget.images, budget.pictures, budget.sampling_steps]
    folder = cells_folder(NAME, json.dumps([digest, work, asdict(TINYWORLD_RESIDUALS)]))
    if not options.report:
        compute(host, budget, folder)
    write_page(page(command_of(NAME, options), budget, folder, digest), options.out)


if __name__ == "__main__":
    main()
