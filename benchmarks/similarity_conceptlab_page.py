"""The page of ConceptLab's similarity: is it of its category, and away from its members?"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

from quality_tables import as_gain, cell_means, compared, table_of
from similarity_conceptlab_cells import Learning, Measured
from similarity_conceptlab_plan import (
    ADAPTIVE,
    GIVEN,
    LEARNED,
    MEASURES,
    NOTES,
    PROMPTED,
    Category,
    Cell,
    InventionSimilarityBudget,
)
from similarity_tables import head
from torch import Tensor

from conceptloom.viz.overlays import sample_strip

Judged = Mapping[Cell, Measured]
POSITIVE, DISTANCE, _ = MEASURES
CLAIMS = ((POSITIVE, "5 of 5"), (DISTANCE, "4 of 5"))  # of the paper, against Kandinsky's prompts


def page(
    judged: Judged,
    learnings: Mapping[Cell, Learning],
    budget: InventionSimilarityBudget,
    told: Sequence[str],
    command: str,
    device: str,
    picture: str,
) -> str:
    """The results as Markdown.

    Args:
        learnings: how cells were learned.
        told: lines on the networks.
        picture: file of the first pictures; "" for none.
    """
    cells = by_wish(judged)
    variants = list(dict.fromkeys(cell.variant for cell in judged))
    categories = list(dict.fromkeys(cell.category for cell in judged))
    wishes = len({cell.wish for cell in judged})
    lines = [
        *head("Similarity by the paper's protocol: ConceptLab", command, device),
        *told,
        "",
        f"{len(categories)} categories, {wishes} pairs of negatives in all, {budget.seeds} "
        f"seed(s), {budget.steps} steps each; {budget.pictures} pictures of a cell, "
        f"{budget.decoder_steps} steps of the decoder, {budget.side} px, from the same noise for "
        "every variant. The pairs and nouns are ours; the paper's are not in the texts that we "
        "could read.",
        "",
        *table_of(cells, variants, MEASURES, digits=3),
        "",
        "Mean ± standard deviation over the cells (pair, seed).",
        "",
        *(f"* *{measure.title}*: {measure.meaning}." for measure in MEASURES),
        *(f"* {variant}: {NOTES[variant]}." for variant in variants),
        "",
        f"## {GIVEN.capitalize()} against the others",
        "",
        "Gain over the same pairs and seeds, ± standard error; bold beyond two of them.",
        "",
        "| against | " + " | ".join(measure.title for measure in MEASURES) + " |",
        "|---|" + "--:|" * len(MEASURES),
    ]
    for variant in variants:
        if variant != GIVEN:
            gains = [compared(cells, GIVEN, variant, measure)[:2] for measure in MEASURES]
            figures = " | ".join(as_gain(gain, error, digits=3) for gain, error in gains)
            lines.append(f"| {variant} | {figures} |")
    lines += ["", "## By category", "", *by_category(judged, categories)]
    lines += ["", "## Seconds of a step", "", *describe_times(learnings)]
    if left := describe_remaining(learnings):
        lines += ["", "## What answers added to the pair, seed by seed", "", *left]
    if picture:
        lines += ["", f"![The first picture of every category and variant]({picture})"]
    return "\n".join(lines) + "\n"


def by_wish(judged: Judged) -> dict[tuple[str, int, str], Measured]:
    """The same with keys as tables have them."""
    return {(cell.wish, cell.seed, cell.variant): row for cell, row in judged.items()}


def by_category(judged: Judged, categories: Sequence[Category]) -> list[str]:
    """The two measures of the paper, and in how many categories learning is ahead of prompting."""
    columns = [f"{m.title}, {variant}" for m, _ in CLAIMS for variant in (GIVEN, PROMPTED)]
    lines = ["| category | " + " | ".join(columns) + " |", "|---|" + "--:|" * len(columns)]
    ahead = dict.fromkeys(("positive", "distance"), 0)
    for category in categories:
        mine = by_wish({c: row for c, row in judged.items() if c.category == category})
        figures: list[str] = []
        for measure, _ in CLAIMS:
            ours, theirs = (
                statistics.mean(cell_means(mine, variant, measure.key).values())
                for variant in (GIVEN, PROMPTED)
            )
            figures += [f"{ours:.3f}", f"{theirs:.3f}"]
            ahead[measure.key] += ours > theirs
        lines.append(f"| {category.word} | {' | '.join(figures)} |")
    told = [
        f"{measure.title} in {ahead[measure.key]} of {len(categories)} (paper: {claimed})"
        for measure, claimed in CLAIMS
    ]
    return [*lines, "", f"{GIVEN.capitalize()} is ahead of {PROMPTED}s: {', '.join(told)}."]


def describe_times(learnings: Mapping[Cell, Learning]) -> list[str]:
    """Wall seconds of each way to learn."""
    lines = ["| variant | s a step |", "|---|--:|"]
    for variant in LEARNED:
        seconds = [one.seconds for cell, one in learnings.items()
                   if cell.variant == variant and one.seconds is not None]  # fmt: skip
        if seconds:
            lines.append(f"| {variant} | {statistics.median(seconds):.3f} |")
    return [*lines, "", "Median of the cells, wall time; looks at pictures and answers included."]


def describe_remaining(learnings: Mapping[Cell, Learning]) -> list[str]:
    """The negatives that were found on the way, a line for each pair."""
    found: dict[str, list[str]] = {}
    for cell, learning in learnings.items():
        if cell.variant == ADAPTIVE:
            added = [word for word in learning.negatives if word not in cell.pair]
            found.setdefault(cell.wish, []).append(", ".join(added) or "none")
    return [f"* {wish}: {'; '.join(seeds)}." for wish, seeds in found.items()]


def sheet(firsts: Mapping[Cell, Tensor]) -> Tensor:
    """[H, W, 3] the first picture [H, W, 3] of every category's first pair, a row each; seed 0."""
    shown = {cell: image for cell, image in firsts.items()
             if cell.seed == 0 and cell.pair == cell.category.pairs[0]}  # fmt: skip
    captions = [f"{cell.category.word}, {cell.variant}" for cell in shown]
    n_columns = len({cell.variant for cell in shown})
    return sample_strip(list(shown.values()), captions, n_columns=n_columns)
