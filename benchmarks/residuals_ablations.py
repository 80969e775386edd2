"""What each choice in learning residuals is good for, measured on TinyWorld by an oracle.

    .venv/bin/python benchmarks/residuals_ablations.py --quick --seeds 1
    .venv/bin/python benchmarks/residuals_ablations.py

Learns unseen objects from pictures on one background each: with other ranks, with other things that
learn, with pictures of the class beside them, in another scope, with other class words. Draws them
on other backgrounds with LAG, those of the default with LAG's other settings too, and writes tables
to `docs/results/`. A finished cell (object, seed, variant) stands below `runs/` and is only judged
anew; stop and start as you like. `--report` writes the page from what is there.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path

import torch
from quality_cells import is_finished
from quality_runs import asked, cells_folder, command_of, keep, write_page
from residuals_ablations_page import Trained, page
from residuals_ablations_plan import DEFAULT, QUICK, VARIANTS, Way, cells, row_of, settings_of
from residuals_concepts import learned
from residuals_judge import MEASURES, Found, judge
from residuals_plan import BASE, FULL, LESSONS, ResidualsBudget
from safetensors.torch import load_file
from torch import Tensor

from conceptloom.cli.demo.judge import mean
from conceptloom.cli.models import open_host
from conceptloom.concepts.concept import Concept, LowRank, stacked
from conceptloom.concepts.fingerprints import model_digest
from conceptloom.host.ports import Host
from conceptloom.methods.personalized_residuals import Localised, sample_lag
from conceptloom.samplers.ddim import sample_ddim, seeded_noise
from conceptloom.tinyworld.presets import CFG
from conceptloom.tinyworld.shapes import BACKGROUNDS

NAME = "residuals_ablations"
NUMBERS, RANKS = "numbers", "ranks"  # beside the pictures of a cell


def made_cell(
    host: Host, model: str, name: str, seed: int, variant: str, budget: ResidualsBudget
) -> dict[str, Tensor]:
    """Pictures [n, H, W, 3], 0..255, by "way/background", and what was trained for them."""
    config, word = settings_of(budget, seed, variant, name)
    concept = learned(host, model, name, budget.images, config, word)
    kept = trained(concept, config)
    for place in LESSONS[name].drawn_on:
        noise = seeded_noise(host, 1000 + seed, budget.pictures, (64, 64))
        text = f"{concept.prompts[0]} {BACKGROUNDS[place]}"
        steps = budget.sampling_steps
        kept[f"{BASE}/{place}"] = in_weights(host, concept, 0.0, text, noise, steps)
        for way, how in VARIANTS[variant].ways.items():
            kept[f"{way}/{place}"] = drawn(host, concept, how, text, noise, steps)
    return kept


def drawn(host: Host, concept: Concept, way: Way, text: str, noise: Tensor, steps: int) -> Tensor:
    """Pictures [n, H, W, 3], 0..255."""
    if way.lag is None:
        return in_weights(host, concept, 1.0, text, noise, steps)
    given = Localised(concept=concept, config=way.lag, class_word=way.class_word)
    return decoded(host, sample_lag(host, [given], [text], noise, steps=steps, cfg=CFG))


def in_weights(
    host: Host, concept: Concept, strength: float, text: str, noise: Tensor, steps: int
) -> Tensor:
    """The same with the concept in the weights; at strength 0 the base model, which reads V*."""
    stack = stacked([(concept, strength)])
    with host.edited(stack.edits, trainable=False), torch.no_grad():
        prompts = [host.encode_prompt(text, stack.handles)]
        latent = sample_ddim(host, prompts, host.encode_prompt(""), noise, steps=steps, cfg=CFG)
    return decoded(host, latent)


def decoded(host: Host, latent: Tensor) -> Tensor:
    return (host.decode_latent(latent) * 255).round().byte().contiguous()


def trained(concept: Concept, config: object) -> dict[str, Tensor]:
    """How many numbers learned, [weights, V*], and the ranks of residuals."""
    changes = concept.weights.values()
    low = [change for change in changes if isinstance(change, LowRank)]
    numbers = sum(change.up.numel() + change.down.numel() for change in low)
    numbers += sum(change.tensor.numel() for change in changes if not isinstance(change, LowRank))
    vectors = sum(rows.numel() for name in concept.handles.values() for rows in name.values())
    return {
        NUMBERS: torch.tensor([numbers, vectors if getattr(config, "train_handle", True) else 0]),
        RANKS: torch.tensor(sorted({change.rank for change in low}), dtype=torch.int64),
    }


def key_of(budget: ResidualsBudget, name: str, seed: int, variant: str) -> str:
    """What a cell was made with; another way of learning or drawing makes it anew."""
    config, word = settings_of(budget, seed, variant, name)
    ways = {way: asdict(how) for way, how in VARIANTS[variant].ways.items()}
    return json.dumps([word, type(config).__name__, asdict(config), ways])


def file_of(folder: Path, name: str, seed: int, variant: str) -> Path:
    return folder / f"{name} {seed} {variant}.safetensors".replace(" ", "-").replace("*", "")


def compute(host: Host, model: str, budget: ResidualsBudget, folder: Path) -> None:
    """Every cell that is not there yet."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, seed, variant in cells(budget):
        path, key = file_of(folder, name, seed, variant), key_of(budget, name, seed, variant)
        if is_finished(path, key):
            continue
        began = time.process_time()
        kept = made_cell(host, model, name, seed, variant, budget)
        keep(path, kept, {"key": key})
        spent = time.process_time() - began
        rows = {way: mean(found["likeness"]) for way, found in judged(kept, name).items()}
        told = ", ".join(f"{way} {likeness:.2f}" for way, likeness in rows.items())
        print(f"{variant}, {name}, seed {seed}: {told}; {spent:.0f} s of CPU", flush=True)


def judged(kept: Mapping[str, Tensor], name: str) -> dict[str, Found]:
    """What the oracle says, by the way of drawing."""
    found: dict[str, Found] = {}
    for key, images in kept.items():
        if key in (NUMBERS, RANKS):
            continue
        way, _, place = key.partition("/")
        into = found.setdefault(way, {measure.key: [] for measure in MEASURES})
        for image, plain in zip(images, kept[f"{BASE}/{place}"], strict=True):
            judge(image, plain, name, place, into)
    return found


def finished(
    budget: ResidualsBudget, folder: Path
) -> tuple[dict[tuple[str, int, str], Found], dict[str, Trained]]:
    """Cells that are there, as the present oracle sees them, and what each variant trained."""
    found: dict[tuple[str, int, str], Found] = {}
    what: dict[str, Trained] = {}
    for name, seed, variant in cells(budget):
        path = file_of(folder, name, seed, variant)
        if not is_finished(path, key_of(budget, name, seed, variant)):
            continue
        kept = load_file(path)
        what[variant] = Trained(kept[RANKS].tolist(), *kept[NUMBERS].tolist())
        for way, looks in judged(kept, name).items():
            if way != BASE:
                found[name, seed, row_of(variant, way)] = looks
            elif variant == DEFAULT:
                found[name, seed, BASE] = looks
    return found, what


def main() -> None:
    options = asked(NAME, __doc__, "half the time", seeds=FULL.seeds, divisible=False)
    budget = replace(QUICK if options.quick else FULL, seeds=options.seeds)
    host = open_host(device="cpu")
    digest = model_digest(host)
    work = [budget.images, budget.pictures, budget.sampling_steps]  # its key tells a cell the rest
    folder = cells_folder(NAME, json.dumps([digest, work]))
    if not options.report:
        compute(host, digest, budget, folder)
    found, what = finished(budget, folder)
    write_page(page(found, what, budget, command_of(NAME, options), digest), options.out)


if __name__ == "__main__":
    main()
