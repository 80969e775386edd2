"""The page of ConceptLab's quality benchmark, with plain words on who wins."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from conceptlab_plan import (
    ADAPTIVE,
    ALL_FIXED,
    ALL_PROMPTED,
    FIXED,
    IN_TEXT,
    MEANING,
    MEASURES,
    NONE,
    PROMPTED,
    VARIANTS,
    WISHES,
    WORDS,
    Cells,
    InventionBudget,
    Key,
)
from quality_tables import compared, describe_machine, table_of
from torch import Tensor

from conceptloom.viz.overlays import sample_strip

CLAIMED = ("positive", "distance", "novelty")
AGAINST = (FIXED, ALL_FIXED, NONE, IN_TEXT, PROMPTED, ALL_PROMPTED, WORDS)


def verdict_of(gain: float, error: float) -> str:
    """Plain words; two standard errors count as sure."""
    if gain > 2 * error:
        return "better"
    if gain < -2 * error:
        return "**worse**"
    return "no difference that is sure"


def page(
    cells: Cells,
    left: Mapping[Key, Sequence[str]],
    budget: InventionBudget,
    n_seeds: int,
    command: str,
    sheet: str,
    digest: str,
) -> str:
    """The results as Markdown; `digest` tells the prior's weights apart."""
    wanted = len(WISHES) * len(VARIANTS) * n_seeds
    lines = [
        "# ConceptLab on TinyWorld: are inventions new, and still of their category?",
        "",
        f"    {command}",
        "",
        f"{describe_machine()}; prior {digest}. {len(cells)} of {wanted} cells are finished"
        + ("." if len(cells) >= wanted else "; the same command goes on with the rest."),
        "",
        f"{len(WISHES)} categories ({', '.join(wish.category for wish in WISHES)}), {n_seeds} "
        f"seeds. {budget.steps} steps at {budget.learning_rate:g}, lambda "
        f"{budget.positive_weight:g}, {budget.prior_steps} steps of the prior at guidance "
        f"{budget.guidance:g}, a look every {budget.look_every}; {budget.pictures} pictures of "
        f"each cell in {budget.sampling_steps} DDIM steps, from the same noise for every variant.",
        "",
        *table_of(cells, VARIANTS, MEASURES, digits=3),
    ]
    lines += ["", "Mean ± standard deviation over the cells (category, seed).", ""]
    lines += [f"* {variant}: {meaning}." for variant, meaning in MEANING.items()]
    lines += ["", *(f"* *{m.title}*: {m.meaning}." for m in MEASURES)]
    lines += [
        "",
        "Novelty is measured by area of overlap: nothing of it was trained, and nothing of it "
        "answers questions. *Positive* and *distance* are measured in the very space that all "
        "handles but those in text space learn in, as in the paper, where it is CLIP's. *Named* "
        "comes from the network that answers the questions of the adaptive variant, so for that "
        "one it is no independent judge.",
        "",
        "## Adaptive negatives against the others",
        "",
        "Gain of adaptive negatives over the same categories and seeds, ± standard error over the "
        "categories, whose seeds are averaged first.",
        "",
        "| against | measure | gain | verdict |",
        "|---|---|--:|---|",
    ]
    for variant in AGAINST:
        for measure in (m for m in MEASURES if m.key in CLAIMED):
            gain, error, count = compared(cells, ADAPTIVE, variant, measure)
            if count > 1:
                verdict = verdict_of(gain, error)
                lines.append(
                    f"| {variant} | {measure.title} | {gain:+.3f} ± {error:.3f} | {verdict} |"
                )
    lines += ["", "## What was left behind", ""]
    lines += found_words(left)
    lines += ["", "## What this says of the paper's claims", "", *meaning_of(cells), ""]
    lines += [
        f"![One picture of every category and variant]({sheet})",
        "",
        "The first picture of seed 0: a row for each category, a column for each variant, in the "
        "order of the table.",
    ]
    return "\n".join(lines) + "\n"


def found_words(left: Mapping[Key, Sequence[str]]) -> list[str]:
    """Which negatives the adaptive runs found by themselves."""
    lines: list[str] = []
    for wish in WISHES:
        runs = [words for (category, _, name), words in left.items()
                if category == wish.category and name == ADAPTIVE]  # fmt: skip
        if runs:
            each = "; ".join(", ".join(words) or "none" for words in runs)
            lines.append(f"* {wish.category}: {each}.")
    return lines


def meaning_of(cells: Cells) -> list[str]:
    """Sentences that follow from the figures alone."""
    by_key = {measure.key: measure for measure in MEASURES}

    def against(variant: str, key: str) -> str:
        gain, error, count = compared(cells, ADAPTIVE, variant, by_key[key])
        return verdict_of(gain, error) if count > 1 else "not measured yet"

    claims = [
        (
            "higher positive similarity than negative prompts (paper: 5 of 5 categories)",
            [(PROMPTED, "positive"), (ALL_PROMPTED, "positive")],
        ),
        (
            "larger distance to members than negative prompts (paper: 4 or 5 of 5 categories)",
            [(PROMPTED, "distance"), (ALL_PROMPTED, "distance")],
        ),
        (
            "it is the negatives that make the invention differ from known members",
            [(NONE, "distance"), (NONE, "novelty")],
        ),
        (
            "negatives found on the way lead farther than a few given ones",
            [(FIXED, "distance"), (FIXED, "novelty")],
        ),
        (
            "constraints on what the prior imagines do more than constraints on text features",
            [(IN_TEXT, "positive"), (IN_TEXT, "distance"), (IN_TEXT, "novelty")],
        ),
    ]  # fmt: skip
    lines = []
    for claim, pairs in claims:
        verdicts = "; ".join(
            f"{by_key[key].title} against {variant}: {against(variant, key)}"
            for variant, key in pairs
        )
        lines.append(f"* Claim: {claim}. Adaptive negatives here: {verdicts}.")
    return [
        *lines,
        "",
        "TinyWorld is 64 px wide and knows six shapes; its prior and image encoder have 0.2 "
        "million weights together. The figures say how this implementation behaves there. They do "
        "not repeat the paper's study with Kandinsky 2.1 and people's judgement.",
    ]


def sheet(kept: Mapping[Key, tuple[Tensor, Sequence[str]]]) -> Tensor:
    """[H, W, 3] one picture of every category and variant, seed 0."""
    images: list[Tensor] = []
    captions: list[str] = []
    for wish in WISHES:
        for variant in VARIANTS:
            entry = kept.get((wish.category, 0, variant))
            images.append(torch.ones(64, 64, 3) if entry is None else entry[0][0].float() / 255)
            captions.append(variant if wish is WISHES[0] else wish.category)
    return sample_strip(images, captions, n_columns=len(VARIANTS))
