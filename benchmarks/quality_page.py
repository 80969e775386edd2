"""The table of the quality benchmark as Markdown, with plain words on who wins."""

from __future__ import annotations

from quality_plan import LESSONS, MEASURES, SERVES, VARIANTS, WHOLE, Cells, SceneBudget
from quality_tables import as_gain, compared, describe_machine, table_of, verdict_of


def page(cells: Cells, budget: SceneBudget, n_seeds: int, command: str, digest: str) -> str:
    """The results as Markdown."""
    wanted = len(LESSONS) * len(VARIANTS) * n_seeds
    lines = [
        "# Break-A-Scene on TinyWorld: what each part is good for",
        "",
        f"    {command}",
        "",
        f"{describe_machine()}; base model {digest[:12]}. {len(cells)} of {wanted} cells are "
        "finished" + ("." if len(cells) >= wanted else "; the same command goes on with the rest."),
        "",
        f"{len(LESSONS)} scenes ({'; '.join(lesson.name for lesson in LESSONS)}) of objects that "
        f"the base model has no words for, {n_seeds} seeds. Steps: {budget.token_steps} + "
        f"{budget.weight_steps}, batch {budget.batch_size}, scope {budget.scope} at "
        f"{budget.weight_rate:g}, class images: {budget.class_images}. For every prompt "
        f"{budget.pictures} picture(s) on each of two backgrounds that differ from the taught one, "
        f"{budget.sampling_steps} DDIM steps; the variants share their noise. Without phase 1 all "
        "steps go to phase 2."
        + (
            " The surroundings are learned too, as a concept that no prompt asks for (Sec. 4.2)."
            if budget.surroundings
            else ""
        ),
        "",
        "Mean ± standard deviation over the cells (scene, seed).",
        "",
        *table_of(cells, VARIANTS, MEASURES, digits=2),
    ]
    lines += ["", *(f"* {m.title}: {m.meaning}." for m in MEASURES)]
    if not any(found["alone"] and max(found["alone"]) for found in cells.values()):
        lines += [
            "",
            "No picture of any variant reached the oracle's threshold of sameness: at this budget "
            "and with this base model colours and pattern are learned, the exact object is not. "
            "Identity then compares nothing; likeness and attention still do.",
        ]
    lines += ["", "## Does the whole method win?", ""]
    lines += [
        "Against each variant, on the measure that the paper's ablation (Sec. 5.2) says the part "
        "serves: mean gain of the whole method over the same cells, ± standard error over the "
        "scenes, whose seeds are averaged first.",
        "",
        "| part switched off | measure | gain | verdict |",
        "|---|---|---|---|",
    ]
    for variant, keys in SERVES.items():
        for measure in (m for m in MEASURES if m.key in keys):
            gain, error, count = compared(cells, WHOLE, variant, measure)
            if count:
                verdict = verdict_of(gain, error)
                name = variant.removeprefix("without ")
                lines.append(
                    f"| {name} | {measure.title} | {gain:+.2f} ± {error:.2f} | {verdict} |"
                )
    lines += ["", "## Every measure against every variant", ""]
    lines += [
        "Gain of the whole method, positive = the whole method is better, ± standard error; bold "
        "beyond two standard errors.",
        "",
        "| part switched off | " + " | ".join(m.title for m in MEASURES) + " |",
        "|---|" + "---|" * len(MEASURES),
    ]
    for variant in SERVES:
        gains = [compared(cells, WHOLE, variant, m) for m in MEASURES]
        if gains[0][2]:
            figures = " | ".join(as_gain(gain, error) for gain, error, _ in gains)
            lines.append(f"| {variant.removeprefix('without ')} | {figures} |")
    lines += ["", *prices(cells)]
    return "\n".join(lines) + "\n"


def prices(cells: Cells) -> list[str]:
    """What a part makes worse beyond two standard errors, said plainly."""
    told: list[str] = []
    for variant in SERVES:
        worse = [
            f"{measure.title} ({gain:+.2f})"
            for measure in MEASURES
            for gain, error, count in [compared(cells, WHOLE, variant, measure)]
            if count and gain < -2 * error
        ]
        if worse:
            told.append(f"* The {variant.removeprefix('without ')} costs {', '.join(worse)}.")
    return ["What parts cost:", "", *told] if told else []
