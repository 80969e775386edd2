"""What each part of Concept Weaver is good for, measured on TinyWorld by an oracle.

    .venv/bin/python benchmarks/weave_quality.py --quick
    .venv/bin/python benchmarks/weave_quality.py

Learns objects that the model has no word for, each from a picture of its own, K and V alone; weaves
2, 3 and 4 of them into templates of plain shapes, with the whole method, with one part switched off
in turn, and by what else there is. Finished cells (job, seed, variant) and learned concepts stand
below `runs/` and are not made again; stop and start as you like. `--report` writes the page only.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import platform
import statistics
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from datetime import date
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from weave_plan import (
    CONCEPTS,
    FULL,
    JOBS,
    MASKED,
    MEASURES,
    MERGED,
    NOTES,
    QUICK,
    VARIANTS,
    WHOLE,
    WORDS,
    Budget,
    Job,
)

from conceptloom.cli.measures import as_image, mean
from conceptloom.cli.models import open_host
from conceptloom.cli.presets import TINYWORLD
from conceptloom.host.ports import Host
from conceptloom.methods.break_a_scene import ClassImages, learn_scene
from conceptloom.methods.concept_weaver import (
    InversionConfig,
    Regions,
    Template,
    Wish,
    make_regions,
    make_template,
    weave,
)
from conceptloom.samplers.sigmas import ddim_sigmas
from conceptloom.tinyworld.concepts import concept_scene
from conceptloom.tinyworld.oracle import iou, likeness, load_oracle
from conceptloom.training.adapters import Scope
from conceptloom.training.checkpoints import model_digest
from conceptloom.training.concept import Concept, Diff, stacked
from conceptloom.training.concept_file import load_concept, save_concept
from conceptloom.training.previews import PreviewConfig
from conceptloom.training.scene import make_scene

ROOT = Path(__file__).resolve().parent.parent
PAGE, RUNS = ROOT / "docs" / "results" / "weave_quality.md", ROOT / "runs" / "weave_quality"
TAUGHT_SEED, TAUGHT_BACKGROUND = 2, "white"
Cells = dict[tuple[str, int, str], dict[str, list[float]]]


def learned(host: Host, name: str, budget: Budget, folder: Path) -> Concept:
    """A concept of one object, learned once."""
    path = folder / f"{name}.safetensors"
    if path.is_file():
        return load_concept(path)
    truth, base = concept_scene([name], TAUGHT_SEED, TAUGHT_BACKGROUND), TINYWORLD.config
    handle = f"my-{name}"
    scene = make_scene(
        [as_image(truth.image)], {handle: [torch.from_numpy(truth.masks[0])]}, {handle: WORDS[name]}
    )
    config = replace(
        base,
        token_phase=replace(base.token_phase, steps=budget.token_steps),
        weight_phase=replace(
            base.weight_phase, steps=budget.weight_steps, scope=Scope.CROSS_ATTENTION_KV,
            learning_rate=budget.weight_rate,
        ),
        batch_size=budget.batch_size,
        prior_weight=0.0,
    )  # fmt: skip
    previews = PreviewConfig(steps=1, cfg=1.0)
    found = learn_scene(
        host, scene, config, class_images=ClassImages(draw=0), previews=previews
    ).concept
    save_concept(found, path)
    return found


def regions_of(job: Job, template: object, bank: dict[str, Concept], variant: str) -> Regions:
    """The regions of a cell; what is switched off shows in their prompts and concepts."""
    concepts = [bank[name] for name in job.concepts]
    every = job.sentence
    for word, concept in zip(job.words, concepts, strict=True):
        every = every.replace(word, f"<{concept.names[0]}>")
    merged = merged_concept(concepts)
    wishes = []
    for word, concept, mask in zip(job.words, concepts, template.masks, strict=True):
        prompt, own = "", concept
        if variant == "without prompts of their own":
            prompt, own = every, replace(concept, handles=merged.handles)
        elif variant in (MERGED, MASKED):
            own = merged
            prompt = every if variant == MERGED else ""
        handle = concept.names[0]
        wishes.append(
            Wish(concept=own, word=word, mask=torch.from_numpy(mask), handle=handle, prompt=prompt)
        )
    behind = Wish(concept=merged, word="", prompt=every) if variant == MERGED else None
    return make_regions(job.sentence, wishes, behind)


def merged_concept(concepts: list[Concept]) -> Concept:
    """All concepts in one: differences add up, handles join."""
    stack = stacked([(concept, 1.0) for concept in concepts])
    weights: dict[str, Diff] = {}
    for concept in concepts:
        for name, change in concept.weights.items():
            before = weights[name].tensor if name in weights else 0.0
            weights[name] = Diff(before + change.tensor)
    return replace(concepts[0], handles=stack.handles, weights=weights)


def drawn(
    host: Host, job: Job, seed: int, variant: str, bank: dict[str, Concept],
    inverted: Template,
) -> torch.Tensor:  # fmt: skip
    """The picture [H, W, 3] of a cell."""
    regions = regions_of(job, job.template(seed), bank, variant)
    return weave(host, inverted, regions, VARIANTS[variant]).image[0]


def judged(image: torch.Tensor, job: Job, seed: int) -> dict[str, list[float]]:
    """What the oracle says, region by region."""
    oracle, truth = load_oracle(), job.template(seed)
    references = {}
    for name in CONCEPTS:
        taught = concept_scene([name], TAUGHT_SEED, TAUGHT_BACKGROUND)
        references[name] = oracle.reference(taught.image, taught.masks[0])
    found: dict[str, list[float]] = {measure.key: [] for measure in MEASURES}
    seen = oracle.find(image)
    for name, mask in zip(job.concepts, truth.masks, strict=True):
        region = torch.from_numpy(mask) > 0.5
        there = oracle.describe(image, mask)
        nearest = max(references, key=lambda n: likeness(there, references[n]))
        found["likeness"].append(likeness(there, references[name]))
        found["identity"].append(float(nearest == name))
        found["mixing"].append(float(nearest != name and nearest in job.concepts))
        found["layout"].append(max((iou(one.mask, region) for one in seen), default=0.0))
    found["background"].append(float(oracle.background(image) == job.background))
    return found


def all_cells(budget: Budget, seeds: int) -> Iterator[tuple[Job, int, str]]:
    """Whole rounds first: after any number of them the variants can be compared."""
    for seed in range(seeds):
        for job in JOBS[: budget.jobs]:
            for variant in VARIANTS:
                yield job, seed, variant


def file_of(folder: Path, job: Job, seed: int, variant: str) -> Path:
    name = f"{job.name} {seed} {variant}.safetensors"
    return folder / name.replace(" ", "-").replace(",", "")


def compute(host: Host, budget: Budget, seeds: int, folder: Path) -> None:
    """Every cell that is not there yet."""
    folder.mkdir(parents=True, exist_ok=True)
    templates: dict[tuple[str, int], Template] = {}
    bank: dict[str, Concept] = {}
    sigmas = ddim_sigmas(host.schedule, budget.sampling_steps)
    for job, seed, variant in all_cells(budget, seeds):
        path = file_of(folder, job, seed, variant)
        if path.is_file():
            continue
        began = time.process_time()
        for name in job.concepts:
            bank[name] = bank.get(name) or learned(host, name, budget, folder)
        if (job.name, seed) not in templates:
            image = as_image(job.template(seed).image)[None]
            templates[job.name, seed] = make_template(
                host, image, job.sentence, sigmas, InversionConfig()
            )
        template = templates[job.name, seed]
        image = drawn(host, job, seed, variant, bank, template)
        part = path.with_suffix(".part")
        save_file({"image": (image * 255).round().byte().contiguous()}, part)
        part.replace(path)
        found = judged(image, job, seed)
        told = ", ".join(f"{key} {mean(values):.2f}" for key, values in found.items())
        cpu = time.process_time() - began
        print(f"{job.name}, seed {seed}, {variant}: {told}; {cpu:.0f} s of CPU", flush=True)


def finished(budget: Budget, seeds: int, folder: Path) -> Cells:
    """Cells that are there, as the present oracle sees them."""
    return {
        (job.name, seed, variant): judged(load_file(path)["image"].float() / 255, job, seed)
        for job, seed, variant in all_cells(budget, seeds)
        if (path := file_of(folder, job, seed, variant)).is_file()
    }


def page(cells: Cells, budget: Budget, seeds: int, command: str, digest: str) -> str:
    """The results as Markdown."""
    wanted = budget.jobs * seeds * len(VARIANTS)
    lines = [
        "# Concept Weaver on TinyWorld: what each part is good for",
        "",
        f"    {command}",
        "",
        f"{date.today()}, {platform.machine()}, torch {torch.__version__.split('+')[0]}, one CPU "
        f"thread; base model {digest[:12]}. {len(cells)} of {wanted} cells are finished.",
        "",
        f"{budget.jobs} templates of 2, 3 and 4 objects, {seeds} arrangement(s) each. Concepts: K "
        f"and V, {budget.token_steps} + {budget.weight_steps} steps; {budget.sampling_steps} "
        "sampling steps. Gain: by how much the whole method is better over the same cells, ± "
        "standard error; bold beyond two of them.",
        "",
        "| variant | cells | " + " | ".join(m.title for m in MEASURES) + " |",
        "|---|--:|" + "---|" * len(MEASURES),
    ]
    for variant in VARIANTS:
        mine = {key[:2]: found for key, found in cells.items() if key[2] == variant}
        whole = {key[:2]: found for key, found in cells.items() if key[2] == WHOLE}
        if not mine:
            continue
        figures = []
        for measure in MEASURES:
            told = f"{mean([mean(found[measure.key]) for found in mine.values()]):.2f}"
            if variant != WHOLE:
                sign = 1 if measure.is_better_high else -1
                gains = [
                    sign * (mean(whole[k][measure.key]) - mean(mine[k][measure.key]))
                    for k in mine
                    if k in whole
                ]
                told += f" ({gain_told(gains)})"
            figures.append(told)
        lines.append(f"| {variant} | {len(mine)} | {' | '.join(figures)} |")
    lines += ["", *(f"* {m.title}: {m.meaning}." for m in MEASURES)]
    lines += [f"* {variant}: {note}." for variant, note in NOTES.items()]
    return "\n".join(lines) + "\n"


def gain_told(gains: list[float]) -> str:
    error = statistics.stdev(gains) / len(gains) ** 0.5 if len(gains) > 1 else float("nan")
    text = f"{mean(gains):+.2f} ± {error:.2f}"
    return f"**{text}**" if abs(mean(gains)) > 2 * error else text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="half an hour of one core")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--report", action="store_true", help="write the page, compute nothing")
    parser.add_argument("--out", type=Path, default=PAGE)
    options = parser.parse_args()
    torch.set_num_threads(1)
    budget = QUICK if options.quick else FULL
    host = open_host(device="cpu")
    digest = model_digest(host)
    key = json.dumps([digest, asdict(budget)])
    folder = RUNS / hashlib.sha256(key.encode()).hexdigest()[:12]
    if not options.report:
        compute(host, budget, options.seeds, folder)
    command = "python benchmarks/weave_quality.py" + (" --quick" if options.quick else "")
    cells = finished(budget, options.seeds, folder)
    text = page(cells, budget, options.seeds, command, digest)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(text, encoding="utf-8")
    print(f"wrote {options.out}")


if __name__ == "__main__":
    main()
