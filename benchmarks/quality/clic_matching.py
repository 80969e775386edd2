"""RoI Matching: does it find where a learned ornament belongs?

Learns an ornament on a part of one object, teaches a word w* where it sits, and looks for the same
part in unseen pictures of other objects, bare and with the ornament. Beside it: the same reading
and clean-up of words that learned nothing about the place.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from harness.experiment import ONE_THREAD, Found, add_options, budget_of, sheet_path
from harness.results import Claim, Column, Result, Section, Table, stamp
from harness.statistics import Cells, Expectation, Measure, judged, means_of
from harness.store import one_thread, save_sheet
from harness.subject import Options
from torch import Tensor

from conceptloom.cli.demo.judge import as_image
from conceptloom.concepts.concept import weight_edits
from conceptloom.concepts.handles import initial_handles
from conceptloom.host.ports import Host
from conceptloom.methods.clic.matching import (
    REGION,
    ROI_MATCHING,
    Match,
    MatchConfig,
    ReadConfig,
    clean,
    learn_region,
    read_heat,
    vectors_of,
)
from conceptloom.tinyworld.measures import localisation
from conceptloom.tinyworld.ornaments import ornament_scene
from conceptloom.tinyworld.planes import iou
from conceptloom.training.phases import TokenPhase
from conceptloom.viz.colors import concept_colours
from conceptloom.viz.overlays import attention_overlay
from conceptloom.viz.overlays import stacked as stacked_rows

from . import world
from .clic import DetailBudget, budgets, learned_ornament, taught_mask
from .tasks import DETAILS, DetailTask
from .world import found_in, taught_of

PAGE = "clic_matching"

# unseen objects; none has the colour of an ornament's disc
OBJECTS = (
    "red mug", "green vase", "pink ball", "yellow house", "orange teapot", "purple mug",
    "cyan vase", "red house",
)  # fmt: skip
UNSEEN = 500  # first seed of the targets
MATCHED, LEARNED, OBJECT, RULER = (
    "RoI Matching (w*)",
    "the learned word v*, no training of a place",
    "the object's word, base model",
    "the whole object, as the judge sees it",
)
ROWS = (MATCHED, LEARNED, OBJECT, RULER)
KINDS = {0: "bare", 1: "with the ornament"}
IOU = Measure("iou", "IoU", "overlap of what is found with the true place")
AUC = Measure("auc", "AUC", "the same of the map before its threshold, by its order alone")
# steps of w*, noise levels to read at, objects a pair, pairs
SIZES = {"full": (500, 50, 4, 5), "short": (80, 10, 2, 5), "quick": (1, 1, 1, 1)}


@dataclass(frozen=True, slots=True)
class Target:
    """An unseen picture, and where the ornament belongs in it."""

    image: Tensor  # [H, W, 3]
    place: Tensor  # [H, W]
    word: str  # class of the object
    kind: int  # of KINDS


def targets_of(task: DetailTask, count: int) -> list[Target]:
    """`count` objects with a bare part, and the same with the ornament on it."""
    found: list[Target] = []
    for i in range(count):
        name = OBJECTS[(task.seed + 3 * i) % len(OBJECTS)]
        background = ("white", "gray", "sky", "grass")[i % 4]
        for kind, ornament in enumerate(("", task.ornament)):
            scene = ornament_scene(name, ornament, UNSEEN + i, background)
            place = torch.from_numpy(scene.masks[1])
            found.append(Target(as_image(scene.image), place, name.split()[-1], kind))
    return found


def scores_of(
    host: Host,
    task: DetailTask,
    budget: DetailBudget,
    config: MatchConfig,
    count: int,
) -> tuple[dict[tuple[int, str], Found], list[Match], list[Target]]:
    """Every way to find the place, on every target, by (kind, row); and the matches of w*."""
    targets, learning = targets_of(task, count), config.learning
    concept = learned_ornament(host, task, budget)
    with host.edited(weight_edits(concept), trainable=False):
        start = {e: rows.to(host.device) for e, rows in vectors_of(concept, "").items()}
        taught = as_image(taught_of(task).image)
        word = learn_region(host, start, taught, taught_mask(task), config)
        found = _read(host, targets, lambda _: word, learning.prompt_of(REGION), config)
        plain = _read(host, targets, lambda _: {REGION: start}, learning.prompt_of(REGION), config)
    vectors = {word: _word_vectors(host, word) for word in {one.word for one in targets}}
    prompt = f"a photo of a <{REGION}>"
    objects = _read(host, targets, lambda target: vectors[target.word], prompt, config)
    cells: dict[tuple[int, str], Found] = {
        (kind, row): {IOU.key: [], AUC.key: []} for kind in KINDS for row in ROWS
    }
    for row, matches in ((MATCHED, found), (LEARNED, plain), (OBJECT, objects)):
        for match, target in zip(matches, targets, strict=True):
            cell = cells[target.kind, row]
            cell[IOU.key].append(iou(match.mask > 0.5, target.place > 0.5))
            cell[AUC.key].append(localisation(match.heat, target.place).auc)
    for target in targets:
        wholes = [thing.mask for thing in found_in(target.image)]
        best = max((iou(mask, target.place > 0.5) for mask in wholes), default=0.0)
        cells[target.kind, RULER][IOU.key].append(best)
    return cells, found, targets


def _word_vectors(host: Host, word: str) -> dict[str, dict[str, Tensor]]:
    rows = initial_handles(host, {REGION: word})[REGION]
    return {REGION: {e: vector.detach().to(host.device) for e, vector in rows.items()}}


def _read(
    host: Host,
    targets: Sequence[Target],
    words: Callable[[Target], Mapping[str, Mapping[str, Tensor]]],
    text: str,
    config: MatchConfig,
) -> list[Match]:
    """The region in every target, read by a word and cleaned as RoI Matching does."""
    matches: list[Match] = []
    for target in targets:
        with torch.no_grad():
            prompt = host.encode_prompt(text, words(target))
        heat = read_heat(host, target.image, prompt, REGION, config.reading)
        matches.append(clean(heat, target.image, config.reading))
    return matches


def _panel(task: DetailTask, target: Target, match: Match) -> Tensor:
    """The heat-map with the outline of the true place."""
    name = task.ornament
    return attention_overlay(
        target.image, {name: match.heat}, {name: target.place}, None, concept_colours([name])
    )


def run(options: Options) -> Result:
    """Match every ornament, and show the first targets."""
    one_thread()
    host, budget = world.open_model(), budget_of(options, budgets())
    steps, noises, count, n_pairs = budget_of(options, SIZES)
    learning = replace(
        ROI_MATCHING,
        token_phase=TokenPhase(steps=steps, learning_rate=5e-3),
        brightness=0.1,
        views=4,
    )
    config = MatchConfig(learning=learning, reading=ReadConfig(steps=noises))
    cells: dict[int, dict[tuple[str, int, str], Found]] = {kind: {} for kind in KINDS}
    panels: list[Tensor] = []
    tasks = DETAILS[:n_pairs]
    for task in tasks:
        named = replace(config, learning=replace(learning, object_word=task.source))
        new, found, targets = scores_of(host, task, budget, named, count)
        for (kind, row), cell in new.items():
            cells[kind][task.ornament, 0, row] = cell
        panels += [_panel(task, *both) for both in zip(targets[:2], found[:2], strict=True)]
    save_sheet(stacked_rows(panels), sheet_path(PAGE))
    about = (
        f"{len(tasks)} ornaments, each learned from one picture ({budget.token_steps} + "
        f"{budget.weight_steps} steps of CLiC), w* learned for {steps} steps in that picture, then "
        f"read at {noises} noise levels in {count} unseen pictures of other objects with the part "
        f"bare, and in {count} with the ornament on it ({len(tasks) * count} pictures a column). "
        f"All maps are cleaned and cut alike, at {config.reading.threshold:.2f}."
    )
    return result(cells, about)


def result(cells: Mapping[int, Cells], about: str) -> Result:
    """Mean IoU and AUC, and whether w* is better than each other way."""
    rows = []
    for row in ROWS:
        values = {
            f"{measure.key} {kind}": float(means_of(cells[kind], row, measure.key).mean())
            for measure in ((IOU, AUC) if row != RULER else (IOU,))
            for kind in KINDS
        }
        rows.append({"row": row, **values})
    titles = [
        ("iou 0", "IoU, bare"),
        ("iou 1", "IoU, with the ornament"),
        ("auc 0", "AUC, bare"),
        ("auc 1", "AUC, with it"),
    ]
    columns = [Column(key="row", title="", is_text=True)]
    columns += [Column(key=key, title=title, digits=3) for key, title in titles]
    return Result(
        **stamp("cpu", ONE_THREAD),
        about=[about], claims=claims(cells), claims_about=CLAIMS_ABOUT,
        sections=[Section(table=Table(name="matching", columns=columns, rows=rows))],
        picture=(f"{PAGE}.jpg", "Heat-maps, with the true places"),
    )  # fmt: skip


CLAIMS_ABOUT = (
    "How much better w* is on the same pictures: mean over the ornaments ± standard error; met and "
    "missed are beyond two of them."
)


def claims(cells: Mapping[int, Cells]) -> list[Claim]:
    """w* beside every other way, on bare parts and on those with the ornament."""
    found: list[Claim] = []
    for kind, where in KINDS.items():
        expected = [
            Expectation(f"RoI Matching finds the place better, {where}", MATCHED, row, IOU.key)
            for row in ROWS[1:]
        ]
        found += judged(cells[kind], expected, [IOU])
    return found


def arguments(parser: argparse.ArgumentParser) -> None:
    add_options(parser, keeps=False)
