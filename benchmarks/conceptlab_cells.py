"""Cells (category, seed, variant): invented, drawn, kept on disk, judged."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import torch
from conceptlab_plan import (
    ALL_PROMPTED,
    IN_TEXT,
    LEARNED,
    MEASURES,
    NAMED,
    NEW,
    PROMPTED,
    VARIANTS,
    WISHES,
    Cells,
    InventionBudget,
    InventionTask,
    config_of,
)
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from conceptloom.cli.demo.judge import mean
from conceptloom.cli.laboratory import ConceptLabBackend
from conceptloom.host.ports import Host
from conceptloom.methods.conceptlab import invent
from conceptloom.samplers.ddim import sample_ddim, seeded_noise
from conceptloom.tinyworld.oracle import load_oracle
from conceptloom.tinyworld.prior import SENTENCES
from conceptloom.tinyworld.silhouettes import nearest_silhouette
from conceptloom.vision.clip_space import ClipSpace
from conceptloom.vision.generators import HostImageGenerator

HANDLE = "new"
CFG = 3.0


def drawn_cell(
    host: Host,
    laboratory: ConceptLabBackend,
    wish: InventionTask,
    budget: InventionBudget,
    seed: int,
    variant: str,
) -> tuple[Tensor, list[str]]:
    """Pictures [n, 64, 64, 3] as bytes, and the negatives at the end."""
    handles, left, words, negative = {}, list[str](), wish.category, ""
    if variant in LEARNED:
        assert laboratory.defaults.clamps is not None
        made = invent(
            ClipSpace(host) if variant == IN_TEXT else laboratory.space,
            HANDLE,
            config_of(wish, budget, seed, variant, laboratory.defaults.clamps),
            image_generator=HostImageGenerator(
                host, steps=budget.sampling_steps, cfg=CFG, size=(64, 64)
            ),
            questions=laboratory.questions,
        )
        handles, left, words = made.concept.handles, list(made.negatives), f"<{HANDLE}>"
    elif variant in (PROMPTED, ALL_PROMPTED):
        left = list(NAMED if variant == ALL_PROMPTED else wish.pair)
        negative = ", ".join(left)
    with torch.no_grad():
        prompt = host.encode_prompt(SENTENCES[0].format(concept=words), handles)
        noise = seeded_noise(host, 1000 + seed, budget.pictures, (64, 64))
        latent = sample_ddim(
            host,
            [prompt],
            host.encode_prompt(negative),
            noise,
            steps=budget.sampling_steps,
            cfg=CFG,
        )
        return (host.decode_latent(latent) * 255).round().byte(), left


def judged(
    pictures: Tensor, wish: InventionTask, laboratory: ConceptLabBackend
) -> dict[str, list[float]]:
    """Every measure of every picture; novelty of those that show an object."""
    space, oracle = laboratory.space, load_oracle()
    images = pictures.float() / 255
    seen = space.look_at(images)
    category, *members = space.meanings(
        [SENTENCES[0].format(concept=word) for word in (wish.category, *NAMED)]
    )
    positive = seen @ category
    nearest = (seen @ torch.stack(members).T).max(dim=1).values
    found = [objects[0] for objects in map(oracle.find, images) if objects]
    outlines = [nearest_silhouette(one.mask) for one in found]
    overlaps = [o.overlap for o in outlines] + [1.0] * (len(images) - len(found))
    names = [one.shape for one in found] + [""] * (len(images) - len(found))
    measures = {
        "positive": positive.tolist(),
        "distance": (positive - nearest).tolist(),
        "novelty": [o.novelty for o in outlines],
        "new": [float(overlap < NEW) for overlap in overlaps],
        "seen": [float(bool(name)) for name in names],
        "named": [float(name in NAMED) for name in names],
    }
    return {measure.key: measures[measure.key] for measure in MEASURES}


def all_cells(n_seeds: int) -> Iterator[tuple[InventionTask, int, str]]:
    """Whole rounds first: after any number of them the variants can be compared."""
    for seed in range(n_seeds):
        for wish in WISHES:
            for variant in VARIANTS:
                yield wish, seed, variant


def file_of(folder: Path, wish: InventionTask, seed: int, variant: str) -> Path:
    """Where a cell is kept."""
    name = f"{wish.category} {seed} {variant}".replace(",", "").replace(" ", "-")
    return folder / f"{name}.safetensors"


def kept(folder: Path, n_seeds: int) -> dict[tuple[str, int, str], tuple[Tensor, list[str]]]:
    """Pictures and negatives of the cells that are there."""
    found: dict[tuple[str, int, str], tuple[Tensor, list[str]]] = {}
    for wish, seed, variant in all_cells(n_seeds):
        path = file_of(folder, wish, seed, variant)
        if path.is_file():
            with safe_open(path, framework="pt") as file:
                left = (file.metadata() or {}).get("negatives", "")
                pictures = file.get_tensor("pictures")
            found[wish.category, seed, variant] = pictures, left.split(", ") if left else []
    return found


def finished(folder: Path, n_seeds: int, laboratory: ConceptLabBackend) -> Cells:
    """Every cell that is there, as the present judges see it."""
    wishes = {wish.category: wish for wish in WISHES}
    return {
        key: judged(pictures, wishes[key[0]], laboratory)
        for key, (pictures, _) in kept(folder, n_seeds).items()
    }


def compute(
    host: Host,
    laboratory: ConceptLabBackend,
    budget: InventionBudget,
    n_seeds: int,
    folder: Path,
    part: tuple[int, int],
) -> None:
    """Every cell that is not there yet; with part (k, n) only every n-th, from the k-th on."""
    folder.mkdir(parents=True, exist_ok=True)
    every = [(cell, file_of(folder, *cell)) for cell in all_cells(n_seeds)][part[0] - 1 :: part[1]]
    todo = [(cell, path) for cell, path in every if not path.is_file()]
    for number, ((wish, seed, variant), path) in enumerate(todo, 1):
        cpu = time.process_time()
        pictures, left = drawn_cell(host, laboratory, wish, budget, seed, variant)
        beside = path.with_suffix(".part")
        save_file({"pictures": pictures.contiguous()}, beside, {"negatives": ", ".join(left)})
        beside.replace(path)
        found = judged(pictures, wish, laboratory)
        told = ", ".join(f"{name} {mean(values):.2f}" for name, values in found.items())
        cpu = time.process_time() - cpu
        print(f"{number}/{len(todo)} {wish.category}, {seed}, {variant}: {told}; ", end="")
        print(f"left {left}; {cpu:.1f} s of CPU", flush=True)
