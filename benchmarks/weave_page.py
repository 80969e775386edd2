"""The page that tells of a run of weave_quality.py."""

from __future__ import annotations

from collections.abc import Mapping

from quality_tables import describe_claim, describe_machine, table_with_gains
from weave_plan import CLAIMS, MEASURES, NOTES, VARIANTS, WHOLE, WeaveBudget

from conceptloom.cli.demo.judge import mean

# (job, seed, variant) -> measure -> one number for each region
Cells = dict[tuple[str, int, str], dict[str, list[float]]]


def page(
    cells: Cells, budget: WeaveBudget, seeds: int, taught: int, command: str, digest: str
) -> str:
    """The results as Markdown.

    Args:
        taught: pictures of every concept.
    """
    wanted = budget.jobs * seeds * len(VARIANTS)
    decibels = sorted(
        {(job, seed): found["psnr"][0] for (job, seed, _), found in cells.items()}.values()
    )
    above = sum(value > 30 for value in decibels)
    lines = [
        "# Concept Weaver on TinyWorld: what each part is good for",
        "",
        f"    {command}",
        "",
        f"{describe_machine()}; base model {digest[:12]}. {len(cells)} of {wanted} cells are "
        "finished.",
        "",
        f"{budget.jobs} templates of 2, 3 and 4 objects, {seeds} arrangement(s) each. Concepts: "
        f"personalized residuals, {budget.teaching_steps} steps from {taught} pictures, "
        f"each alone; {budget.sampling_steps} sampling steps. Gain: by how much the whole method "
        "is better over the same cells, ± standard error over the templates, whose "
        "arrangements are averaged first; bold beyond two of them.",
        "",
        *table_with_gains(cells, WHOLE, VARIANTS, MEASURES),
        "",
        *(f"* {m.title}: {m.meaning}." for m in MEASURES),
        *(f"* {variant}: {note}." for variant, note in NOTES.items()),
        "",
        "## The template comes back",
        "",
        f"{above} of {len(decibels)} inverted templates come back with more than 30 dB (PSNR, "
        f"against what the autoencoder makes of the picture): {decibels[0]:.1f} to "
        f"{decibels[-1]:.1f} dB.",
        "",
        "## By number of concepts",
        "",
        *by_count(cells),
        "",
        "## What this says of the paper's claims",
        "",
        "| claim | measured by | gain of the whole method | here |",
        "|---|---|--:|---|",
        *(describe_claim(cells, claim, MEASURES) for claim in CLAIMS),
        "",
        "Holds and fails are differences beyond two standard errors; the rest is open with so few "
        "cells. TinyWorld is a small model of coloured shapes: it tells whether the parts do what "
        "they are there for, and nothing of photographs.",
    ]
    return "\n".join(lines) + "\n"


def by_count(cells: Cells) -> list[str]:
    """Likeness and identity with 2, 3 and 4 concepts."""
    counts = sorted({len(job.split()) - 1 for job, _, _ in cells})
    rows = [
        "| variant | " + " | ".join(f"{n}: likeness | {n}: identity" for n in counts) + " |",
        "|---|" + "--:|--:|" * len(counts),
    ]
    for variant in VARIANTS:
        figures = []
        for count in counts:
            mine = {
                key: found
                for key, found in of_variant(cells, variant).items()
                if len(key[0].split()) - 1 == count
            }
            figures += [f"{average(mine, key):.2f}" for key in ("likeness", "identity")]
        rows.append(f"| {variant} | {' | '.join(figures)} |")
    return rows


def of_variant(cells: Cells, variant: str) -> dict[tuple[str, int], dict[str, list[float]]]:
    return {(job, seed): found for (job, seed, name), found in cells.items() if name == variant}


def average(found: Mapping[tuple[str, int], dict[str, list[float]]], key: str) -> float:
    return mean([mean(cell[key]) for cell in found.values()])
