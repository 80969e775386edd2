"""The table of the quality benchmark as Markdown, with plain words on who wins."""

from __future__ import annotations

import platform
import statistics
from collections.abc import Sequence
from datetime import date

import torch
from quality_plan import LESSONS, MEASURES, SERVES, VARIANTS, WHOLE, Budget, Cells, Measure

from conceptloom.cli.measures import mean


def cell_means(cells: Cells, variant: str, measure: str) -> dict[tuple[str, int], float]:
    """(lesson, seed) -> mean of a measure."""
    return {
        (lesson, seed): mean(found[measure])
        for (lesson, seed, name), found in cells.items()
        if name == variant
    }


def told(values: Sequence[float]) -> str:
    """Mean and standard deviation over the cells."""
    spread = statistics.stdev(values) if len(values) > 1 else float("nan")
    return f"{mean(values):.2f} ± {spread:.2f}"


def compared(cells: Cells, variant: str, measure: Measure) -> tuple[float, float, int]:
    """By how much the whole method is better: mean and standard error over the same cells."""
    whole, other = (cell_means(cells, name, measure.key) for name in (WHOLE, variant))
    sign = 1 if measure.is_better_high else -1
    gains = [sign * (whole[key] - other[key]) for key in whole if key in other]
    error = statistics.stdev(gains) / len(gains) ** 0.5 if len(gains) > 1 else float("nan")
    return mean(gains), error, len(gains)


def page(cells: Cells, budget: Budget, n_seeds: int, command: str, digest: str) -> str:
    """The results as Markdown."""
    wanted = len(LESSONS) * len(VARIANTS) * n_seeds
    lines = [
        "# Break-A-Scene on TinyWorld: what each part is good for",
        "",
        f"    {command}",
        "",
        f"{date.today()}, {platform.machine()}, torch {torch.__version__.split('+')[0]}, one CPU "
        f"thread; base model {digest[:12]}. {len(cells)} of {wanted} cells are finished"
        + ("." if len(cells) >= wanted else "; the same command goes on with the rest."),
        "",
        f"{len(LESSONS)} scenes ({'; '.join(lesson.name for lesson in LESSONS)}) of objects that "
        f"the base model has no words for, {n_seeds} seeds. Steps: {budget.token_steps} + "
        f"{budget.weight_steps}, batch {budget.batch_size}, scope {budget.scope} at "
        f"{budget.weight_rate:g}, class images: {budget.class_images}. For every prompt "
        f"{budget.pictures} picture(s) on each of two backgrounds that differ from the taught one, "
        f"{budget.sampling_steps} DDIM steps; the variants share their noise. Without phase 1 all "
        "steps go to phase 2.",
        "",
        "Mean ± standard deviation over the cells (scene, seed).",
        "",
        "| variant | cells | " + " | ".join(measure.title for measure in MEASURES) + " |",
        "|---|---|" + "---|" * len(MEASURES),
    ]
    for variant in VARIANTS:
        columns = [list(cell_means(cells, variant, m.key).values()) for m in MEASURES]
        if columns[0]:
            figures = " | ".join(told(values) for values in columns)
            lines.append(f"| {variant} | {len(columns[0])} | {figures} |")
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
        "serves: mean gain of the whole method over the same cells, ± standard error.",
        "",
        "| part switched off | measure | gain | verdict |",
        "|---|---|---|---|",
    ]
    for variant, keys in SERVES.items():
        for measure in (m for m in MEASURES if m.key in keys):
            gain, error, count = compared(cells, variant, measure)
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
        gains = [compared(cells, variant, m) for m in MEASURES]
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
            for gain, error, count in [compared(cells, variant, measure)]
            if count and gain < -2 * error
        ]
        if worse:
            told.append(f"* The {variant.removeprefix('without ')} costs {', '.join(worse)}.")
    return ["What parts cost:", "", *told] if told else []


def as_gain(gain: float, error: float) -> str:
    """A gain in bold where two standard errors make it sure."""
    text = f"{gain:+.2f} ± {error:.2f}"
    return f"**{text}**" if abs(gain) > 2 * error else text


def verdict_of(gain: float, error: float) -> str:
    """Plain words; two standard errors count as sure."""
    if gain == error == 0:
        return "**cannot tell**: all cells are alike, at the floor or ceiling of the measure"
    if gain > 2 * error:
        return "the whole method is better"
    if gain < -2 * error:
        return "**the whole method is worse**"
    if gain > 0:
        return "better, but within the spread"
    return "**not better** (within the spread)"
