"""The table of CLiC's quality benchmark as Markdown, with plain words on who wins."""

from __future__ import annotations

from clic_plan import (
    CLAIMS,
    MEASURES,
    PAIRS,
    SERVES,
    VARIANTS,
    WHOLE,
    Cells,
    DetailBudget,
)
from quality_tables import as_gain, compared, describe_machine, table_of, verdict_of


def summed_up(cells: Cells) -> list[str]:
    """What the table means for each claim of the paper, in a line each."""
    lines: list[str] = []
    for variant, keys in SERVES.items():
        gains = [compared(cells, WHOLE, variant, m) for m in MEASURES if m.key in keys]
        if not gains[0][2]:
            continue
        better = sum(gain > 2 * error for gain, error, _ in gains)
        worse = sum(gain < -2 * error for gain, error, _ in gains)
        word = "borne out in part" if better and worse else "borne out" if better else "not seen"
        if worse and not better:
            word = "contradicted"
        lines.append(f"* {CLAIMS[variant]}: **{word}** here.")
    return lines


def page(
    cells: Cells, budget: DetailBudget, n_seeds: int, command: str, digest: str, sheet: str
) -> str:
    """The results as Markdown.

    Args:
        sheet: file of the pictures, beside the page.
    """
    wanted = len(PAIRS) * len(VARIANTS) * n_seeds
    lines = [
        "# CLiC on TinyWorld: what each part is good for",
        "",
        f"    {command}",
        "",
        f"{describe_machine()}; base model {digest[:12]}. {len(cells)} of {wanted} cells are "
        "finished" + ("." if len(cells) >= wanted else "; the same command goes on with the rest."),
        "",
        f"{len(PAIRS)} pairs of a source and a target ({'; '.join(pair.name for pair in PAIRS)}), "
        f"{n_seeds} seeds. The ornaments are outside of the base model's vocabulary; the target is "
        "another object, and its mask says where the ornament belongs. Steps: "
        f"{budget.token_steps} + {budget.weight_steps}, batch {budget.batch_size}, every weight "
        f"at {budget.weight_rate:g} (cross-attention alone, as in the paper, gets an ornament's "
        "colours but not its pattern in so many steps of this model; the losses are the paper's). "
        f"{budget.pictures} pictures a pair, blended, "
        f"{budget.sampling_steps} steps of which {budget.start} are skipped, eta 1, guidance "
        f"{budget.cfg:g}, no attention guidance, so that the losses alone are compared; the "
        "variants share their noise.",
        "",
        "Mean ± standard deviation over the cells (pair, seed).",
        "",
        *table_of(cells, VARIANTS, MEASURES, digits=3),
    ]
    lines += ["", *(f"* {m.title}: {m.meaning}." for m in MEASURES)]
    lines += [
        "",
        f"![A pair a row: taught, bare, then each variant in the table's order, pasted]({sheet})",
        "",
        "## What it says about the paper's claims",
        "",
        "A claim is borne out where the whole method is better by more than two standard errors on "
        "one of the measures that the part serves, contradicted where it is worse by as much.",
        "",
        *summed_up(cells),
        "",
        "## Does the whole method win?",
        "",
        "Against each variant, on the measures that the paper says the part serves: mean gain of "
        "the whole method over the same cells, ± standard error over the pairs, whose seeds are "
        "averaged first.",
        "",
        "| variant | measure | gain | verdict |",
        "|---|---|---|---|",
    ]
    for variant, keys in SERVES.items():
        for measure in (m for m in MEASURES if m.key in keys):
            gain, error, count = compared(cells, WHOLE, variant, measure)
            if count:
                verdict = verdict_of(gain, error)
                figure = f"{gain:+.3f} ± {error:.3f}"
                lines.append(f"| {variant} | {measure.title} | {figure} | {verdict} |")
    lines += [
        "",
        "## Every measure against every variant",
        "",
        "Gain of the whole method, positive = the whole method is better, ± standard error; bold "
        "beyond two standard errors.",
        "",
        "| variant | " + " | ".join(m.title for m in MEASURES) + " |",
        "|---|" + "---|" * len(MEASURES),
    ]
    for variant in VARIANTS:
        gains = [compared(cells, WHOLE, variant, m) for m in MEASURES]
        if variant != WHOLE and gains[0][2]:
            figures = " | ".join(as_gain(gain, error) for gain, error, _ in gains)
            lines.append(f"| {variant} | {figures} |")
    return "\n".join(lines) + "\n"
