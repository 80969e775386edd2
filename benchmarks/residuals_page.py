"""What the oracle makes of the pictures of LAG, and what that means for the paper's claims."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import torch
from residuals_plan import BASE, LAG, OTHER, PLAIN, VARIANTS, Names
from torch import Tensor

from conceptloom.cli.measures import mean
from conceptloom.tinyworld.concepts import CONCEPTS, concept_scene
from conceptloom.tinyworld.oracle import load_oracle

Row = dict[str, dict[str, float]]  # variant -> measure -> mean over the pictures of a cell

MEASURES = {
    "likeness": "cosine of the oracle's description with the taught object, best object found",
    "identity": "share of pictures in which the oracle takes it for the taught object, of "
    f"{len(CONCEPTS)} unseen ones",
    "background": "share of pictures on the background that was asked for",
    "changed": "mean change of pixels (0..255) against the base model's picture of the same noise, "
    "where neither shows an object",
    "other": f"share of pictures beside a {' '.join(OTHER)} that show one",
    "both": "two stacked concepts: share of concepts that are recognised",
    "likeness of both": "two stacked concepts: likeness of each, mean",
    "leaked": "two stacked concepts: share of pictures in which one shows twice, or another of the "
    "unseen objects",
}
SMALLER_IS_BETTER = {"changed", "leaked"}
# what the paper says of LAG against the same residuals everywhere (Sec. 3.2 and Fig. 4)
CLAIMS = {
    "The background is the one that was asked for": "background",
    "What is not the concept stays with the base model": "changed",
    "Other objects are still drawn": "other",
    "The concept keeps its identity": "likeness",
    "The same, as the oracle judges it": "identity",
    "Stacked concepts are both there": "likeness of both",
    "Stacked concepts do not leak": "leaked",
}


def judged(names: Names, kept: Mapping[str, Tensor]) -> Row:
    """A cell's pictures, [n, H, W, 3] 0..255 by "variant/prompt/background", in figures."""
    oracle = load_oracle()
    rows: dict[str, dict[str, list[float]]] = {v: {m: [] for m in MEASURES} for v in VARIANTS}
    for key, images in kept.items():
        variant, kind, place = key.split("/")
        into = rows[variant]
        for image, plain in zip(images, kept[f"{BASE}/{kind}/{place}"], strict=True):
            verdicts = [oracle.identity(image, references(), name) for name in names]
            if kind == "together":
                into["both"] += [float(verdict.right) for verdict in verdicts]
                into["likeness of both"] += [verdict.similarity for verdict in verdicts]
                into["leaked"].append(float(bool(oracle.leaked(image, references(), names))))
                continue
            into["likeness"].append(verdicts[0].similarity)
            into["identity"].append(float(verdicts[0].right))
            into["background"].append(float(oracle.background(image) == place))
            change = background_change(oracle, image, plain)
            if change is not None:
                into["changed"].append(change)
            if kind == "beside":
                seen = [(f.colour, f.shape) for f in oracle.find(image)]
                into["other"].append(float(OTHER in seen))
    return {v: {m: mean(values) for m, values in row.items() if values} for v, row in rows.items()}


@cache
def references() -> dict[str, Tensor]:
    """What every unseen object of the world looks like; all but the taught ones distract."""
    truths = {name: concept_scene([name], seed=7) for name in CONCEPTS}
    return {name: load_oracle().reference(t.image, t.masks[0]) for name, t in truths.items()}


def background_change(oracle: Any, image: Tensor, plain: Tensor) -> float | None:
    objects = [found.mask for each in (image, plain) for found in oracle.find(each)]
    empty = ~torch.stack([*objects, torch.zeros(image.shape[:2], dtype=torch.bool)]).any(dim=0)
    change = (image.float() - plain.float()).abs().mean(dim=-1)
    return float(change[empty].mean()) if bool(empty.any()) else None


def results(rows: Sequence[Row]) -> list[str]:
    """Tables and their reading, as lines of Markdown."""
    lines = [
        "| variant | " + " | ".join(MEASURES) + " |",
        "|---|" + "---|" * len(MEASURES),
    ]
    for variant in VARIANTS:
        columns = [[row[variant][m] for row in rows if m in row[variant]] for m in MEASURES]
        lines.append(f"| {variant} | " + " | ".join(map(spread, columns)) + " |")
    lines += ["", *(f"* {name}: {meaning}." for name, meaning in MEASURES.items())]
    lines += ["", "## What it means for the paper's claims", ""]
    lines += ["| claim | measure | LAG - plain LoRA | here |", "|---|---|---|---|"]
    for claim, measure in CLAIMS.items():
        gains = gains_of(rows, measure)
        lines.append(f"| {claim} | {measure} | {gain(gains)} | {verdict(gains, measure)} |")
    worse = [m for m in MEASURES if verdict(gains_of(rows, m), m) == "LAG is worse"]
    lines += ["", told_worse(worse), ""]
    return lines


def gains_of(rows: Sequence[Row], measure: str) -> list[float]:
    """LAG against the plain LoRA of the same cell."""
    both = [(row[LAG], row[PLAIN]) for row in rows]
    return [lag[measure] - plain[measure] for lag, plain in both if {measure} <= lag.keys() & plain]


def told_worse(measures: Sequence[str]) -> str:
    if not measures:
        return "In no measure is LAG worse by more than two standard errors."
    return (
        f"LAG is worse in: {', '.join(measures)}. The median gives half of every map to the "
        "concept, whatever its size: where the word's attention misses a part of the object, that "
        "part stays with the base model. The paper shows such pictures too (Fig. 4, right)."
    )


def spread(values: Sequence[float]) -> str:
    if len(values) < 2:
        return f"{values[0]:.2f}" if values else "-"
    return f"{mean(values):.2f} ± {statistics.stdev(values):.2f}"


def gain(values: Sequence[float]) -> str:
    if len(values) < 2:
        return f"{values[0]:+.2f}" if values else "-"
    return f"{mean(values):+.2f} ± {_error(values):.2f}"


def verdict(values: Sequence[float], measure: str) -> str:
    """Decided beyond two standard errors."""
    if len(values) < 2 or abs(mean(values)) <= 2 * _error(values):
        return "not decided"
    return "holds" if (mean(values) < 0) == (measure in SMALLER_IS_BETTER) else "LAG is worse"


def _error(values: Sequence[float]) -> float:
    return statistics.stdev(values) / len(values) ** 0.5
