"""RoI Matching on TinyWorld: does it find where a learned ornament belongs?

    .venv/bin/python benchmarks/clic_matching.py --quick
    .venv/bin/python benchmarks/clic_matching.py

Learns an ornament on a part of one object, teaches a word w* where it sits, and looks for the same
part on unseen pictures of other objects, bare and with the ornament. Beside it: the same reading
and clean-up of words that learned nothing about the place. Learned ornaments stand below
`runs/clic_ornaments/` and are not learned again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from clic_ornaments import learned_ornament, taught_mask
from clic_plan import FULL, PAIRS, QUICK, DetailBudget, Pair
from PIL import Image
from quality_runs import asked, command_of, write_page
from quality_tables import Measure, cell_means, compared, describe_machine
from torch import Tensor

from conceptloom.cli.demo.judge import as_image, mean
from conceptloom.cli.models import open_host
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
from conceptloom.tinyworld.oracle import load_oracle
from conceptloom.tinyworld.ornaments import ornament_scene
from conceptloom.tinyworld.planes import iou
from conceptloom.training.phases import TokenPhase
from conceptloom.viz.colors import concept_colours
from conceptloom.viz.overlays import attention_overlay
from conceptloom.viz.overlays import stacked as stacked_rows

NAME = "clic_matching"
COLOURS = ("pink", "cyan", "orange", "red", "blue", "yellow", "purple", "green")
UNSEEN = 500  # first seed of the targets
MATCHED, LEARNED, OBJECT, ORACLE = (
    "RoI Matching (w*)",
    "the learned word v*, no training of a place",
    "the object's word, base model",
    "the whole object, as the oracle sees it",
)
ROWS = (MATCHED, LEARNED, OBJECT, ORACLE)
KINDS = {0: "bare", 1: "with the ornament"}
IOU = Measure("iou", "IoU", "overlap of what is found with the true place")
AUC = Measure("auc", "AUC", "the same of the map before its threshold, by its order alone")
# (ornament, kind, row) -> measure -> one number for every picture; no AUC where there is no map
Cells = dict[tuple[str, int, str], dict[str, list[float]]]


@dataclass(frozen=True, slots=True)
class Target:
    """An unseen picture, and where the ornament belongs in it."""

    image: Tensor  # [H, W, 3]
    place: Tensor  # [H, W]
    shape: str  # word of the object
    kind: int  # of KINDS


def targets_of(pair: Pair, count: int) -> list[Target]:
    """`count` objects with a bare part, and the same with the ornament on it."""
    found: list[Target] = []
    for i in range(count):
        colour = COLOURS[(pair.seed + 3 * i) % len(COLOURS)]
        shape = ("circle", "square")[i % 2]
        background = ("white", "gray", "sky", "grass")[i % 4]
        for kind, ornament in enumerate(("", pair.ornament)):
            scene = ornament_scene(
                f"{colour} {shape}", ornament, UNSEEN + i, background, part=pair.part
            )
            place = torch.from_numpy(scene.masks[1])
            found.append(Target(as_image(scene.image), place, shape, kind))
    return found


def scores_of(
    host: Host, pair: Pair, budget: DetailBudget, config: MatchConfig, count: int
) -> tuple[Cells, list[Match], list[Target]]:
    """Every way to find the place, on every target; and the matches of w*."""
    targets, learning = targets_of(pair, count), config.learning
    concept = learned_ornament(host, pair, budget)
    with host.edited(weight_edits(concept), trainable=False):
        start = {e: rows.to(host.device) for e, rows in vectors_of(concept, "").items()}
        taught = as_image(pair.taught.image)
        word = learn_region(host, start, taught, taught_mask(pair), config)
        found = _read(host, targets, lambda _: word, learning.prompt_of(REGION), config)
        plain = _read(host, targets, lambda _: {REGION: start}, learning.prompt_of(REGION), config)
    shapes = {shape: initial_handles(host, {REGION: shape}) for shape in ("circle", "square")}
    vectors = {
        shape: {REGION: {e: rows.detach().to(host.device) for e, rows in handles[REGION].items()}}
        for shape, handles in shapes.items()
    }
    told = f"a photo of a <{REGION}>"
    objects = _read(host, targets, lambda target: vectors[target.shape], told, config)
    cells = {
        (pair.ornament, kind, row): {IOU.key: [], AUC.key: []} for kind in KINDS for row in ROWS
    }
    for row, matches in ((MATCHED, found), (LEARNED, plain), (OBJECT, objects)):
        for match, target in zip(matches, targets, strict=True):
            cell = cells[pair.ornament, target.kind, row]
            cell[IOU.key].append(iou(match.mask > 0.5, target.place > 0.5))
            cell[AUC.key].append(localisation(match.heat, target.place).auc)
    oracle = load_oracle()
    for target in targets:
        wholes = [thing.mask for thing in oracle.find(target.image)]
        best = max((iou(mask, target.place > 0.5) for mask in wholes), default=0.0)
        cells[pair.ornament, target.kind, ORACLE][IOU.key].append(best)
    return cells, found, targets


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


def main() -> None:
    options = asked(NAME, __doc__, "short runs, two objects a pair", divisible=False, keeps=False)
    host = open_host(device="cpu")
    budget, steps, noises, count = (QUICK, 80, 10, 2) if options.quick else (FULL, 500, 50, 4)
    learning = replace(
        ROI_MATCHING,
        token_phase=TokenPhase(steps=steps, learning_rate=5e-3),
        brightness=0.1,
        views=4,
    )
    config = MatchConfig(learning=learning, reading=ReadConfig(steps=noises))
    cells, panels = Cells(), list[Tensor]()
    for pair in PAIRS:
        named = replace(config, learning=replace(learning, object_word=pair.source))
        new, found, targets = scores_of(host, pair, budget, named, count)
        cells |= new
        panels += [_panel(pair, *both) for both in zip(targets[:2], found[:2], strict=True)]
        told = ", ".join(
            f"{row}, {KINDS[kind]} {mean(cell[IOU.key]):.2f}"
            for (_, kind, row), cell in new.items()
        )
        print(f"{pair.name}: {told}", flush=True)
    sheet = options.out.with_suffix(".jpg")
    text = page(cells, budget, config, count, command_of(NAME, options), sheet.name)
    write_page(text, options.out)
    pixels = (stacked_rows(panels).clamp(0, 1) * 255).round().byte().numpy()
    Image.fromarray(pixels).save(sheet, quality=88)


def _panel(pair: Pair, target: Target, match: Match) -> Tensor:
    """The heat-map with the outline of the true place."""
    name = pair.ornament
    return attention_overlay(
        target.image, {name: match.heat}, {name: target.place}, None, concept_colours([name])
    )


def of_kind(cells: Cells, kind: int) -> Cells:
    """Those on bare parts, or those with the ornament on them."""
    return {key: cell for key, cell in cells.items() if key[1] == kind}


def page(
    cells: Cells, budget: DetailBudget, config: MatchConfig, count: int, command: str, sheet: str
) -> str:
    """The results as Markdown."""
    lines = [
        "# RoI Matching: does it find where the ornament belongs?",
        "",
        f"    {command}",
        "",
        f"{describe_machine()}. {len(PAIRS)} ornaments, each learned "
        f"from one picture ({budget.token_steps} + {budget.weight_steps} steps of CLiC), w* "
        f"learned for {config.learning.token_phase.steps} steps in that picture, then read at "
        f"{config.reading.steps} noise levels in {count} unseen pictures of other objects with "
        f"the part bare, and in {count} with the ornament on it ({len(PAIRS) * count} pictures a "
        f"column). All maps are cleaned and cut alike, at {config.reading.threshold:.2f}.",
        "",
        "| mean IoU with the true place | bare | with the ornament | AUC bare | AUC with it |",
        "|---|--:|--:|--:|--:|",
    ]
    for row in ROWS:
        means = [
            [mean(list(cell_means(of_kind(cells, kind), row, measure.key).values()))
             for kind in KINDS]
            for measure in ((IOU, AUC) if row != ORACLE else (IOU,))
        ]  # fmt: skip
        figures = [f"{value:.3f}" for values in means for value in values]
        lines.append(f"| {row} | " + " | ".join([*figures, *[""] * (4 - len(figures))]) + " |")
    lines += [
        "",
        "By how much w* is better, over the same pictures: mean over the ornaments ± standard "
        "error, and what that says beyond two of them.",
        "",
        "| beside | where | IoU gained | |",
        "|---|---|--:|---|",
        *_verdicts(cells),
        "",
        f"![Heat-maps, with the true places]({sheet})",
    ]
    return "\n".join(lines) + "\n"


def _verdicts(cells: Cells) -> Iterator[str]:
    for kind, where in KINDS.items():
        for row in ROWS[1:]:
            gain, error, _ = compared(of_kind(cells, kind), MATCHED, row, IOU)
            sure = "better" if gain > 0 else "**worse**"
            verdict = sure if abs(gain) > 2 * error else "**no difference that is sure**"
            yield f"| {row} | {where} | {gain:+.3f} ± {error:.3f} | {verdict} |"


if __name__ == "__main__":
    main()
