"""RoI Matching on TinyWorld: does it find where a learned ornament belongs?

    .venv/bin/python benchmarks/clic_matching.py --quick
    .venv/bin/python benchmarks/clic_matching.py

Learns an ornament on a part of one object, teaches a word w* where it sits, and looks for the same
part on unseen pictures of other objects, bare and with the ornament. Beside it: the same reading
and clean-up of words that learned nothing about the place. Learned ornaments stand below
`runs/clic_ornaments/` and are not learned again.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path

import torch
from clic_ornaments import learned_ornament, taught_mask
from clic_plan import FULL, PAIRS, QUICK, Budget, Pair
from PIL import Image
from torch import Tensor

from conceptloom.cli.measures import as_image
from conceptloom.cli.models import open_host
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
from conceptloom.training.concept import weight_edits
from conceptloom.training.handles import initial_handles
from conceptloom.training.palette import concept_colours
from conceptloom.training.phases import TokenPhase
from conceptloom.training.pictures import attention_overlay
from conceptloom.training.pictures import stacked as stacked_rows

PAGE = Path(__file__).resolve().parent.parent / "docs" / "results" / "clic_matching.md"
COLOURS = ("pink", "cyan", "orange", "red", "blue", "yellow", "purple", "green")
UNSEEN = 500  # first seed of the targets
MATCHED, LEARNED, OBJECT, ORACLE = (
    "RoI Matching (w*)",
    "the learned word v*, no training of a place",
    "the object's word, base model",
    "the whole object, as the oracle sees it",
)
ROWS = (MATCHED, LEARNED, OBJECT, ORACLE)


@dataclass(frozen=True, slots=True)
class Target:
    """An unseen picture, and where the ornament belongs in it."""

    image: Tensor  # [H, W, 3]
    place: Tensor  # [H, W]
    shape: str  # word of the object
    is_bare: bool


@dataclass(frozen=True, slots=True)
class Score:
    """How well one map found one place."""

    row: str
    is_bare: bool
    iou: float
    auc: float  # of the map before its threshold; NaN where there is none


def targets_of(pair: Pair, count: int) -> list[Target]:
    """`count` objects with a bare part, and the same with the ornament on it."""
    found: list[Target] = []
    for i in range(count):
        colour = COLOURS[(pair.seed + 3 * i) % len(COLOURS)]
        shape = ("circle", "square")[i % 2]
        background = ("white", "gray", "sky", "grass")[i % 4]
        for ornament in ("", pair.ornament):
            scene = ornament_scene(
                f"{colour} {shape}", ornament, UNSEEN + i, background, part=pair.part
            )
            found.append(
                Target(as_image(scene.image), torch.from_numpy(scene.masks[1]), shape, not ornament)
            )
    return found


def scores_of(
    host: Host, pair: Pair, budget: Budget, config: MatchConfig, count: int
) -> tuple[list[Score], list[Match], list[Target]]:
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
    scores: list[Score] = []
    for row, matches in ((MATCHED, found), (LEARNED, plain), (OBJECT, objects)):
        for match, target in zip(matches, targets, strict=True):
            overlap = iou(match.mask > 0.5, target.place > 0.5)
            area = localisation(match.heat, target.place).auc
            scores.append(Score(row, target.is_bare, overlap, area))
    oracle = load_oracle()
    for target in targets:
        wholes = [thing.mask for thing in oracle.find(target.image)]
        best = max((iou(mask, target.place > 0.5) for mask in wholes), default=0.0)
        scores.append(Score(ORACLE, target.is_bare, best, float("nan")))
    return scores, found, targets


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
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="short runs, two objects a pair")
    parser.add_argument("--out", type=Path, default=PAGE)
    options = parser.parse_args()
    torch.set_num_threads(1)
    host = open_host(device="cpu")
    budget, steps, noises, count = (QUICK, 80, 10, 2) if options.quick else (FULL, 500, 50, 4)
    learning = replace(
        ROI_MATCHING,
        token_phase=TokenPhase(steps=steps, learning_rate=5e-3),
        brightness=0.1,
        views=4,
    )
    config = MatchConfig(learning=learning, reading=ReadConfig(steps=noises))
    scores: list[Score] = []
    panels: list[Tensor] = []
    for pair in PAIRS:
        named = replace(config, learning=replace(learning, object_word=pair.source))
        new, found, targets = scores_of(host, pair, budget, named, count)
        scores += new
        panels += [_panel(pair, *both) for both in zip(targets[:2], found[:2], strict=True)]
        told = ", ".join(f"{row} {_mean(new, row, 'iou'):.2f}" for row in ROWS)
        print(f"{pair.name}: {told}", flush=True)
    sheet = options.out.with_suffix(".jpg")
    options.out.parent.mkdir(parents=True, exist_ok=True)
    pixels = (stacked_rows(panels).clamp(0, 1) * 255).round().byte().numpy()
    Image.fromarray(pixels).save(sheet, quality=88)
    command = "python benchmarks/clic_matching.py" + (" --quick" if options.quick else "")
    options.out.write_text(page(scores, budget, config, count, command, sheet.name), "utf-8")
    print(f"wrote {options.out}")


def _panel(pair: Pair, target: Target, match: Match) -> Tensor:
    """The heat-map with the outline of the true place."""
    name = pair.ornament
    return attention_overlay(
        target.image, {name: match.heat}, {name: target.place}, None, concept_colours([name])
    )


def _mean(scores: Sequence[Score], row: str, kind: str, is_bare: bool | None = None) -> float:
    chosen = [s for s in scores if s.row == row and is_bare in (None, s.is_bare)]
    return statistics.mean(getattr(s, kind) for s in chosen)


def page(
    scores: Sequence[Score], budget: Budget, config: MatchConfig, count: int, command: str,
    sheet: str,
) -> str:  # fmt: skip
    """The results as Markdown."""
    per_row = len(scores) // len(ROWS) // 2
    lines = [
        "# RoI Matching: does it find where the ornament belongs?",
        "",
        f"Written by `{command}` on {date.today():%d %B %Y}: {len(PAIRS)} ornaments, each learned "
        f"from one picture ({budget.token_steps} + {budget.weight_steps} steps of CLiC), w* "
        f"learned for {config.learning.token_phase.steps} steps in that picture, then read at "
        f"{config.reading.steps} noise levels in {count} unseen pictures of other objects with "
        f"the part bare, and in {count} with the ornament on it ({per_row} pictures a column). "
        f"All maps are cleaned and cut alike, at {config.reading.threshold:.2f}.",
        "",
        "| mean IoU with the true place | bare | with the ornament | AUC bare | AUC with it |",
        "|---|--:|--:|--:|--:|",
    ]
    for row in ROWS:
        overlaps = [_mean(scores, row, "iou", is_bare) for is_bare in (True, False)]
        areas = [_mean(scores, row, "auc", is_bare) for is_bare in (True, False)]
        told = " | ".join(f"{v:.3f}" if v == v else "" for v in (*overlaps, *areas))
        lines.append(f"| {row} | {told} |")
    lines += ["", *_verdicts(scores), "", f"![Heat-maps, with the true places]({sheet})", ""]
    return "\n".join(lines)


def _verdicts(scores: Sequence[Score]) -> list[str]:
    """Plain words on what the table means."""
    lines: list[str] = []
    for is_bare, where in ((True, "On bare parts"), (False, "Where the ornament is there")):
        own = _mean(scores, MATCHED, "iou", is_bare)
        untrained = max(_mean(scores, row, "iou", is_bare) for row in (LEARNED, OBJECT))
        whole = _mean(scores, ORACLE, "iou", is_bare)
        beats = "beats" if own > untrained else "does **not** beat"
        knows = "more" if own > whole else "**no more**"
        lines.append(
            f"* {where} RoI Matching {beats} thresholded attention without training ({own:.3f} "
            f"against {untrained:.3f} at best), and tells {knows} than the outline of the whole "
            f"object ({whole:.3f})."
        )
    return lines


if __name__ == "__main__":
    main()
