"""The page of residuals_ablations.py: tables of what is varied, and the paper's claims."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from quality_tables import Cells, describe_claim, describe_machine, table_with_gains
from residuals_ablations_plan import (
    CLAIMS,
    GROUPS,
    MARGIN,
    VARIANTS,
    cells,
    row_of,
)
from residuals_judge import MEASURES
from residuals_plan import LESSONS, ResidualsBudget


@dataclass(frozen=True, slots=True)
class Trained:
    """What learned in a variant."""

    ranks: Sequence[int]  # of its residuals; empty where whole weights learn
    numbers: int  # in weights
    vectors: int  # of V*; 0 where it stays


def page(
    found: Cells, what: Mapping[str, Trained], budget: ResidualsBudget, command: str, digest: str
) -> str:
    """The results as Markdown, of the cells that are finished."""
    wanted = len(list(cells(budget)))
    done = sum((name, seed, some_row(variant)) in found for name, seed, variant in cells(budget))
    missing = [variant for variant in VARIANTS if variant not in what]
    objects = list(LESSONS)[: budget.concepts]
    lines = [
        "# Personalized Residuals on TinyWorld: rank, scope, class word and the rest",
        "",
        f"    {command}",
        "",
        f"{describe_machine()}; base model {digest[:12]}. {done} of {wanted} cells are finished"
        + ("." if done == wanted else "; the same command goes on with the rest.")
        + (f" Nothing yet of: {', '.join(missing)}." if missing else ""),
        "",
        f"{len(objects)} objects that the base model has no words for ({', '.join(objects)}), "
        f"{budget.seeds} seed(s): {budget.steps} steps, batch {budget.batch_size}, from "
        f"{budget.images} pictures on one background, {budget.pictures} picture(s) on each of two "
        f"others, {budget.sampling_steps} DDIM steps. All variants share their noise.",
        "",
        "The paper varies its training (Table 3), the class word (Table 4) and the rank (Table 5). "
        "Its values could not be read, so its claims are compared here and not its numbers. "
        "Tables: mean over the cells (object, seed) and, in brackets, by how much the first row is "
        "better over the cells that both have, ± standard error over the objects, whose seeds are "
        "averaged first; bold beyond two of them.",
        "",
        "## What it means for the paper's claims",
        "",
        "Holds: better by more than two standard errors; fails: worse by as much. Where something "
        f"is said to be enough, or to cost nothing, up to {MARGIN:g} worse still holds.",
        "",
        "| claim | measured by | gain | here |",
        "|---|---|--:|---|",
        *(
            describe_claim(found, claim, MEASURES)
            for claim in CLAIMS
            if there(found, claim.whole) and there(found, claim.against)
        ),
        "",
        *(f"* {measure.title}: {measure.meaning}." for measure in MEASURES),
        "",
    ]
    for heading, (whole, others) in GROUPS.items():
        rows = [row for row in (whole, *others) if there(found, row)]
        if len(rows) > 1:
            lines += [f"## {heading}", "", *table_with_gains(found, whole, rows, MEASURES), ""]
    return "\n".join([*lines, *trained_table(what)])


def trained_table(what: Mapping[str, Trained]) -> list[str]:
    """What learned, and what the variants are."""
    return [
        "## What the variants are, and what they train",
        "",
        "| variant | ranks | numbers in weights | of V* | |",
        "|---|---|--:|--:|---|",
        *(
            f"| {variant} | {', '.join(map(str, row.ranks)) or 'whole'} | {row.numbers:,} | "
            f"{row.vectors or '-'} | {VARIANTS[variant].about} |"
            for variant, row in what.items()
        ),
        "",
    ]


def there(found: Cells, row: str) -> bool:
    return any(name == row for _, _, name in found)


def some_row(variant: str) -> str:
    """A row that a finished cell of this variant has."""
    return row_of(variant, next(iter(VARIANTS[variant].ways)))
