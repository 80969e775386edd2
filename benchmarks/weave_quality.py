"""What each part of Concept Weaver is good for, measured on TinyWorld by an oracle.

    .venv/bin/python benchmarks/weave_quality.py --quick
    .venv/bin/python benchmarks/weave_quality.py

Learns objects that the model has no word for, each from pictures of its own; weaves 2, 3 and 4 of
them into templates of plain shapes, with the whole method, with one part switched off in turn, and
by what else there is. Finished cells (job, seed, variant) and learned concepts stand
below `runs/` and are not made again; stop and start as you like. `--report` writes the page only.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from functools import lru_cache
from pathlib import Path

import torch
from quality_runs import asked, cells_folder, command_of, short_digest, write_page
from safetensors.torch import load_file, save_file
from weave_merging import merged_concept, named_sentence
from weave_page import Cells, page
from weave_plan import (
    FULL,
    JOBS,
    MASKED,
    MEASURES,
    MERGED,
    PLACE_ALONE,
    QUICK,
    TEACHING,
    VARIANTS,
    WORDS,
    Job,
    WeaveBudget,
)

from conceptloom.cli.demo.judge import as_image, mean
from conceptloom.cli.models import open_host
from conceptloom.concepts.concept import Concept
from conceptloom.concepts.concept_file import load_concept, save_concept
from conceptloom.concepts.fingerprints import model_digest
from conceptloom.host.ports import Host
from conceptloom.methods.concept_weaver import (
    InversionConfig,
    Regions,
    RegionSpec,
    Template,
    make_regions,
    make_template,
    weave,
)
from conceptloom.methods.personalized_residuals import learn_residuals
from conceptloom.tinyworld.concepts import CONCEPTS, concept_scene
from conceptloom.tinyworld.oracle import likeness, load_oracle
from conceptloom.tinyworld.planes import iou
from conceptloom.training.previews import PreviewConfig

NAME = "weave_quality"
TAUGHT_ON, FIRST_SEED = ("white", "grass", "beach"), 2
UNSEEN = 5  # a seed that no concept was taught with
STANDS = 0.2  # IoU from which on an object that is found stands in a region


def learned(host: Host, name: str, budget: WeaveBudget, folder: Path) -> Concept:
    """A concept of one object, learned once, from pictures of it alone."""
    path = folder / f"{name}.safetensors"
    if path.is_file():
        return load_concept(path)
    images = [
        as_image(concept_scene([name], seed, background).image)
        for seed, background in enumerate(TAUGHT_ON, FIRST_SEED)
    ]
    config = replace(TEACHING, steps=budget.teaching_steps)
    previews = PreviewConfig(steps=1, cfg=1.0)
    found = learn_residuals(
        host, images, f"my-{name}", WORDS[name].split()[-1], config, previews=previews
    )
    save_concept(found.concept, path)
    return found.concept


def regions_of(job: Job, template: object, bank: dict[str, Concept], variant: str) -> Regions:
    """The regions of a cell; what is switched off shows in their prompts and concepts."""
    concepts = [bank[name] for name in job.concepts]
    merged = merged_concept(concepts)
    words = {c.names[0]: word for c, word in zip(concepts, job.words, strict=True)}
    every = named_sentence(job.sentence, words, merged)
    region_specs = []
    for word, concept, mask in zip(job.words, concepts, template.masks, strict=True):
        prompt, own = "", concept
        if variant == "without prompts of their own":
            prompt, own = every, replace(concept, handles=merged.handles)
        elif variant in (MERGED, MASKED):
            own = merged
            prompt = every if variant == MERGED else ""
        handle = concept.names[0]
        region_specs.append(
            RegionSpec(
                concept=own, word=word, mask=torch.from_numpy(mask), handle=handle, prompt=prompt
            )
        )
    behind = None
    if variant == MERGED:
        behind = RegionSpec(concept=merged, word="", prompt=every)
    elif variant == PLACE_ALONE:
        behind = RegionSpec(concept=None, word="", prompt=f"a photo {job.place}")
    return make_regions(job.sentence, region_specs, behind)


def drawn(
    host: Host, job: Job, seed: int, variant: str, bank: dict[str, Concept],
    inverted: Template,
) -> torch.Tensor:  # fmt: skip
    """The picture [H, W, 3] of a cell."""
    regions = regions_of(job, job.template(seed), bank, variant)
    return weave(host, inverted, regions, VARIANTS[variant]).image[0]


@lru_cache(maxsize=1)
def references() -> dict[str, torch.Tensor]:
    """What every unseen object looks like, seen alone."""
    shown = {name: concept_scene([name], UNSEEN) for name in CONCEPTS}
    return {
        name: load_oracle().reference(scene.image, scene.masks[0]) for name, scene in shown.items()
    }


def judged(image: torch.Tensor, job: Job, seed: int) -> dict[str, list[float]]:
    """What the oracle says, region by region."""
    oracle, truth, known = load_oracle(), job.template(seed), references()
    found: dict[str, list[float]] = {measure.key: [] for measure in MEASURES}
    seen = oracle.find(image)
    for name, mask in zip(job.concepts, truth.masks, strict=True):
        region = torch.from_numpy(mask) > 0.5
        standing = max(seen, key=lambda one: iou(one.mask, region), default=None)
        is_there = standing is not None and iou(standing.mask, region) > STANDS
        there = standing if is_there else oracle.describe(image, mask)
        nearest = max(known, key=lambda n: likeness(there, known[n]))
        found["likeness"].append(likeness(there, known[name]))
        found["identity"].append(float(nearest == name))
        found["mixing"].append(float(nearest != name and nearest in job.concepts))
        found["layout"].append(max((iou(one.mask, region) for one in seen), default=0.0))
    found["background"].append(float(oracle.background(image) == job.background))
    return found


def all_cells(budget: WeaveBudget, seeds: int) -> Iterator[tuple[Job, int, str]]:
    """Whole rounds first: after any number of them the variants can be compared."""
    for seed in range(seeds):
        for job in JOBS[: budget.jobs]:
            for variant in VARIANTS:
                yield job, seed, variant


def file_of(folder: Path, job: Job, seed: int, variant: str) -> Path:
    name = f"{job.name} {seed} {variant}.safetensors"
    return folder / name.replace(" ", "-").replace(",", "")


def compute(host: Host, budget: WeaveBudget, seeds: int, folder: Path) -> None:
    """Every cell that is not there yet."""
    folder.mkdir(parents=True, exist_ok=True)
    templates: dict[tuple[str, int], Template] = {}
    bank: dict[str, Concept] = {}
    sigmas = host.noise_path.levels(budget.sampling_steps)
    for job, seed, variant in all_cells(budget, seeds):
        path = file_of(folder, job, seed, variant)
        if path.is_file():
            continue
        began = time.process_time()
        for name in job.concepts:
            bank[name] = bank.get(name) or learned(host, name, budget, folder.parent)
        if (job.name, seed) not in templates:
            image = as_image(job.template(seed).image)[None]
            templates[job.name, seed] = make_template(
                host, image, job.sentence, sigmas, InversionConfig()
            )
        template = templates[job.name, seed]
        image = drawn(host, job, seed, variant, bank, template)
        part = path.with_suffix(".part")
        kept = {
            "image": (image * 255).round().byte().contiguous(), "psnr": torch.tensor(template.psnr),
        }  # fmt: skip
        save_file(kept, part)
        part.replace(path)
        found = judged(image, job, seed)
        told = ", ".join(f"{key} {mean(values):.2f}" for key, values in found.items())
        cpu = time.process_time() - began
        print(f"{job.name}, seed {seed}, {variant}: {told}; {cpu:.0f} s of CPU", flush=True)


def finished(budget: WeaveBudget, seeds: int, folder: Path) -> Cells:
    """Cells that are there, as the present oracle sees them."""
    cells: Cells = {}
    for job, seed, variant in all_cells(budget, seeds):
        path = file_of(folder, job, seed, variant)
        if path.is_file():
            kept = load_file(path)
            found = judged(kept["image"].float() / 255, job, seed)
            cells[job.name, seed, variant] = {**found, "psnr": [float(kept["psnr"])]}
    return cells


def main() -> None:
    options = asked(NAME, __doc__, "half an hour of one core", seeds=3, divisible=False)
    budget = QUICK if options.quick else FULL
    host = open_host(device="cpu")
    digest = model_digest(host)
    bank = cells_folder(NAME, json.dumps([digest, asdict(budget)]))
    ways = repr({name: asdict(config) for name, config in VARIANTS.items()})
    folder = bank / short_digest(ways)
    if not options.report:
        compute(host, budget, options.seeds, folder)
    cells, command = finished(budget, options.seeds, folder), command_of(NAME, options)
    text = page(cells, budget, options.seeds, len(TAUGHT_ON), command, digest)
    write_page(text, options.out)


if __name__ == "__main__":
    main()
