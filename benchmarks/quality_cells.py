"""Cells (scene, seed, variant): learned, drawn, kept on disk, judged by the oracle."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import torch
from quality_plan import (
    LESSONS,
    MEASURES,
    SURROUNDINGS,
    VARIANTS,
    WORD_OF_BACKGROUND,
    WORDS,
    Cells,
    SceneBudget,
    SceneLesson,
    config_of,
)
from quality_runs import NO_PREVIEW, keep
from safetensors import safe_open
from safetensors.torch import load_file

from conceptloom.cli.demo.judge import Judge, as_image, mean, word_localisation
from conceptloom.concepts.concept import stacked
from conceptloom.host.ports import Host
from conceptloom.methods.break_a_scene import learn_scene
from conceptloom.samplers.ddim import sample_ddim, seeded_noise
from conceptloom.scenes.scene import ConceptScene, make_scene, with_background
from conceptloom.tinyworld.concepts import concept_scene
from conceptloom.tinyworld.shapes import BACKGROUNDS

HELD_OUT_SEED = 101  # arrangement of the objects that no training picture has


def learned_cell(
    host: Host, lesson: SceneLesson, budget: SceneBudget, seed: int, variant: str
) -> dict[str, torch.Tensor]:
    """Learn one cell and draw with it: pictures by "words/background", and where the words look."""
    scene = scene_of(lesson, surroundings=budget.surroundings)
    learned = learn_scene(
        host,
        scene,
        config_of(budget, seed, variant),
        previews=NO_PREVIEW,
    )
    stack = stacked([(learned.concept, 1.0)])
    kept: dict[str, torch.Tensor] = {}
    with host.edited(stack.edits, trainable=False), torch.no_grad():
        negative = host.encode_prompt("")
        for number, asked in enumerate(asked_of(lesson)):
            words = " and ".join(f"<{name}>" for name in asked)
            noise = seeded_noise(host, 1000 * seed + number, budget.pictures, (64, 64))
            prompts = [
                host.encode_prompt(f"a photo of {words} {BACKGROUNDS[place]}", stack.handles)
                for place in lesson.elsewhere
                for _ in noise
            ]
            every = noise.repeat(len(lesson.elsewhere), 1, 1, 1)
            steps = budget.sampling_steps
            latent = sample_ddim(host, prompts, negative, every, steps=steps, cfg=3.0)
            images = (host.decode_latent(latent) * 255).round().byte()
            for place, part in zip(lesson.elsewhere, images.split(budget.pictures), strict=True):
                kept[f"{number}/{place}"] = part
        unseen = concept_scene(list(lesson.objects), HELD_OUT_SEED, lesson.elsewhere[0])
        places = word_localisation(host, stack.handles, lesson.handles, unseen)
    kept["iou"] = torch.tensor([scores.iou for scores in places.values()])
    kept["auc"] = torch.tensor([scores.auc for scores in places.values()])
    return kept


def scene_of(lesson: SceneLesson, *, surroundings: bool) -> ConceptScene:
    """The scene of a lesson; the surroundings of its objects may be one more concept."""
    truth = lesson.truth
    masks = [[torch.from_numpy(mask)] for mask in truth.masks]
    words = {h: WORDS[name] for h, name in zip(lesson.handles, lesson.objects, strict=True)}
    scene = make_scene(
        [as_image(truth.image)], dict(zip(lesson.handles, masks, strict=True)), words
    )
    if not surroundings:
        return scene
    return with_background(scene, SURROUNDINGS, WORD_OF_BACKGROUND[lesson.background])


def asked_of(lesson: SceneLesson) -> list[tuple[str, ...]]:
    """The handles of every prompt: each alone, then all together."""
    return [*((name,) for name in lesson.handles), tuple(lesson.handles)]


def judged(
    kept: dict[str, torch.Tensor], lesson: SceneLesson, judge: Judge
) -> dict[str, list[float]]:
    """What the oracle says: one number per handle, or per picture."""
    found: dict[str, list[float]] = {measure.key: [] for measure in MEASURES}
    for number, asked in enumerate(asked_of(lesson)):
        kind = "alone" if len(asked) == 1 else "together"
        for place in lesson.elsewhere:
            for image in kept[f"{number}/{place}"]:
                verdict = judge.look(image, asked)
                for name, identity in verdict.identities.items():
                    found[kind].append(float(identity.right))
                    found["nearest"].append(float(identity.nearest == name))
                    found["likeness"].append(identity.similarity)
                found["leak"].append(float(bool(verdict.leaked)))
                found["background"].append(float(verdict.background == place))
    found["iou"], found["auc"] = kept["iou"].tolist(), kept["auc"].tolist()
    return found


def all_cells(n_seeds: int) -> Iterator[tuple[SceneLesson, int, str]]:
    """Whole rounds first: after any number of them the variants can be compared."""
    for seed in range(n_seeds):
        for lesson in LESSONS:
            for variant in VARIANTS:
                yield lesson, seed, variant


def file_of(folder: Path, lesson: SceneLesson, seed: int, variant: str) -> Path:
    """Where a cell is kept."""
    return folder / f"{lesson.name} {seed} {variant}.safetensors".replace(" ", "-")


def finished(folder: Path, n_seeds: int, key: str) -> Cells:
    """Cells of this very budget and model that are there, as the present oracle sees them."""
    cells: Cells = {}
    judges = {lesson.name: Judge(lesson.truth, lesson.handles) for lesson in LESSONS}
    for lesson, seed, variant in all_cells(n_seeds):
        path = file_of(folder, lesson, seed, variant)
        if is_finished(path, key):
            found = judged(load_file(path), lesson, judges[lesson.name])
            cells[lesson.name, seed, variant] = found
    return cells


def is_finished(path: Path, key: str) -> bool:
    """Whether a cell is there and was made with this budget and model."""
    if not path.is_file():
        return False
    with safe_open(path, framework="pt") as file:
        return (file.metadata() or {}).get("key") == key


def compute(
    host: Host, budget: SceneBudget, n_seeds: int, folder: Path, key: str, part: tuple[int, int]
) -> None:
    """Every cell that is not there yet; with part (k, n) only every n-th, from the k-th on."""
    folder.mkdir(parents=True, exist_ok=True)
    every = [(cell, file_of(folder, *cell)) for cell in all_cells(n_seeds)][part[0] - 1 :: part[1]]
    todo = [(cell, path) for cell, path in every if not is_finished(path, key)]
    for number, ((lesson, seed, variant), path) in enumerate(todo, 1):
        began, cpu = time.monotonic(), time.process_time()
        kept = learned_cell(host, lesson, budget, seed, variant)
        keep(path, kept, {"key": key})
        found = judged(kept, lesson, Judge(lesson.truth, lesson.handles))
        told = ", ".join(f"{name} {mean(values):.2f}" for name, values in found.items())
        seconds, cpu = time.monotonic() - began, time.process_time() - cpu
        print(f"{number}/{len(todo)} {lesson.name}, seed {seed}, {variant}: {told}; ", end="")
        print(f"{seconds:.0f} s, {cpu:.0f} s of CPU", flush=True)
