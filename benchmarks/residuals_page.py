"""What the oracle makes of the pictures of LAG, and what that means for the paper's claims."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from quality_tables import (
    Cells,
    Claim,
    Measure,
    claim_verdict,
    compared,
    describe_claim,
    describe_machine,
    table_of,
)
from residuals_judge import MEASURES as OF_ONE
from residuals_judge import Found, judge, references
from residuals_plan import BASE, LAG, OTHER, PLAIN, VARIANTS, Names, ResidualsBudget
from torch import Tensor

from conceptloom.tinyworld.oracle import load_oracle

MEASURES = (
    *OF_ONE,
    Measure("other", "other", f"share of pictures beside a {' '.join(OTHER)} that show one"),
    Measure("both", "both", "two stacked concepts: share of concepts that are recognised"),
    Measure("likeness of both", "likeness of both", "two stacked concepts: likeness of each, mean"),
    Measure(
        "leaked",
        "leaked",
        "two stacked concepts: share of pictures in which one shows twice, or another of the "
        "unseen objects",
        False,
    ),
)
# what the paper says of LAG against the same residuals everywhere (Sec. 3.2 and Fig. 4)
CLAIMS = (
    Claim("The background is the one that was asked for", LAG, PLAIN, "background"),
    Claim("What is not the concept stays with the base model", LAG, PLAIN, "changed"),
    Claim("Other objects are lost less often", LAG, PLAIN, "other"),
    Claim("The concept keeps its identity", LAG, PLAIN, "likeness"),
    Claim("The same, as the oracle judges it", LAG, PLAIN, "identity"),
    Claim("Stacked concepts are both there", LAG, PLAIN, "likeness of both"),
    Claim("Stacked concepts do not leak", LAG, PLAIN, "leaked"),
)


def judged(names: Names, kept: Mapping[str, Tensor]) -> dict[str, Found]:
    """A cell's pictures, [n, H, W, 3] 0..255 by "variant/prompt/background", in figures."""
    oracle = load_oracle()
    rows: dict[str, Found] = {v: {m.key: [] for m in MEASURES} for v in VARIANTS}
    for key, images in kept.items():
        variant, kind, place = key.split("/")
        into = rows[variant]
        for image, plain in zip(images, kept[f"{BASE}/{kind}/{place}"], strict=True):
            if kind == "together":
                verdicts = [oracle.identity(image, references(), name) for name in names]
                into["both"] += [float(verdict.right) for verdict in verdicts]
                into["likeness of both"] += [verdict.similarity for verdict in verdicts]
                into["leaked"].append(float(bool(oracle.leaked(image, references(), names))))
                continue
            judge(image, plain, names[0], place, into)
            if kind == "beside":
                seen = [(f.colour, f.shape) for f in oracle.find(image)]
                into["other"].append(float(OTHER in seen))
    return rows


def page(cells: Cells, budget: ResidualsBudget, wanted: int, command: str, digest: str) -> str:
    """The results as Markdown, of the cells that are finished.

    Args:
        cells: of one concept or, its names joined by +, of two.
        wanted: how many concepts and pairs with a seed there are.
    """
    done = {(learned, seed) for learned, seed, _ in cells}
    pairs = sum("+" in learned for learned, _ in done)
    lines = [
        "# LAG on TinyWorld: identity, background and the other object",
        "",
        f"    {command}",
        "",
        f"{describe_machine()}; base model {digest[:12]}; {len(done)} of {wanted} cells: "
        f"{len(done) - pairs} of one concept, {pairs} of two, "
        f"{len({seed for _, seed in done})} seed(s). {budget.steps} steps from {budget.images} "
        f"pictures on one background, {budget.pictures} picture(s) for every prompt on each of two "
        f"others, {budget.sampling_steps} DDIM steps; the variants share their noise.",
        "",
        "Mean ± standard deviation over the cells.",
        "",
        *table_of(cells, VARIANTS, MEASURES, digits=2),
        "",
        *(f"* {measure.title}: {measure.meaning}." for measure in MEASURES),
        "",
        "## What it means for the paper's claims",
        "",
        "By how much LAG is better than the plain LoRA of the same cell, ± standard error over "
        "what was learned, whose seeds are averaged first; holds and fails are beyond two of them.",
        "",
        "| claim | measured by | gain of LAG | here |",
        "|---|---|--:|---|",
        *(describe_claim(cells, claim, MEASURES) for claim in CLAIMS),
        "",
        told_worse([measure.title for measure in worse(cells)]),
        "",
    ]
    return "\n".join(lines)


def worse(cells: Cells) -> Iterator[Measure]:
    """Measures in which LAG surely costs something."""
    for measure in MEASURES:
        gain, error, _ = compared(cells, LAG, PLAIN, measure)
        if claim_verdict(gain, error) == "fails":
            yield measure


def told_worse(measures: list[str]) -> str:
    if not measures:
        return "In no measure is LAG worse by more than two standard errors."
    return (
        f"LAG is worse in: {', '.join(measures)}. The median gives half of every map to the "
        "concept, whatever its size: where the word's attention misses a part of the object, that "
        "part stays with the base model. The paper shows such pictures too (Fig. 4, right)."
    )
