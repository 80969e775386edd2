"""How like the learned detail the targets have become, and the page that tells it."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from clic_sweeps import describe_trend
from quality_tables import Measure
from similarity_clic_files import Pair
from similarity_clic_plan import BASE, CLIC, UNTOUCHED, DetailSimilarityBudget, plain_of, variant
from similarity_crops import Distance, outside, square_around
from similarity_measures import Clip, Dino
from similarity_tables import Row, Rows, gain_table, head, table
from torch import Tensor


def _column(title: str, meaning: str, is_better_high: bool = True) -> Measure:
    return Measure(title, title, meaning, is_better_high)


DETAIL = _column(
    "DINO, detail",
    "cosine of two squares, the one around the mask in the taught picture and the one around the "
    "mask in the target, with all that they show",
)
CLIP_T = _column("CLIP-T", "cosine of the whole picture and the object's own words")
OUTSIDE = _column(
    "LPIPS outside",
    "distance from the target before it was touched, all that the mask touches grey in both; "
    "latents that the mask covers in part, and the VAE, leave a trace",
    False,
)
BEFORE = _column("DINO, before", "cosine of the target's square with the same one before")
ATTENTION = _column(
    "attention", "mean probability of the detail's word under the mask, in the picture"
)
GAINED = (DETAIL, CLIP_T, OUTSIDE)  # where one way can be told to be better than another
MEASURES = (*GAINED, BEFORE)


@dataclass(frozen=True, slots=True)
class Measures:
    """What compares; `distance` None leaves LPIPS out."""

    clip: Clip
    dino: Dino
    distance: Distance | None = None


def measured(measures: Measures, pair: Pair, images: Tensor) -> dict[str, list[float]]:
    """What pictures [n, H, W, 3] of a pair's target give, a number each."""
    source, target = pair.source, pair.target
    dino, before = measures.dino, target.image[None]
    squares = dino.of_images(square_around(images, target.mask), margin=1)
    taught = dino.of_images(square_around(source.image[None], source.mask), margin=1)
    untouched = dino.of_images(square_around(before, target.mask), margin=1)
    text = measures.clip.of_texts([plain_of(target)])[0]
    row = {
        DETAIL.key: (squares @ taught[0]).tolist(),
        CLIP_T.key: (measures.clip.of_images(images) @ text).tolist(),
        BEFORE.key: (squares @ untouched[0]).tolist(),
        OUTSIDE.key: [],
    }
    if measures.distance:
        hidden = (outside(x, target.mask) for x in (images, before))
        row[OUTSIDE.key] = measures.distance.between(*hidden).tolist()
    return row


@dataclass(frozen=True, slots=True)
class Sweep:
    """What pictures gave for every value of something that was swept.

    Attributes:
        rows: for every value, all pairs' pictures one after the other, in the same order.
        expected: measures that should follow what is swept, and whether they should fall with it.
    """

    over: str
    values: Sequence[float]
    rows: Sequence[Row]
    expected: Sequence[tuple[Measure, bool]]

    def lines(self) -> Iterator[str]:
        measures = [m for m in (ATTENTION, *MEASURES) if self.rows[0].get(m.key)]
        yield f"| {self.over} | " + " | ".join(measure.title for measure in measures) + " |"
        yield "|--:|" + "--:|" * len(measures)
        for value, row in zip(self.values, self.rows, strict=True):
            means = " | ".join(f"{statistics.mean(row[m.key]):.4f}" for m in measures)
            yield f"| {value:g} | {means} |"
        yield ""
        for measure, falls in self.expected:
            series = list(zip(*(row[measure.key] for row in self.rows), strict=True))
            told = describe_trend(series, self.over, self.values, falls=falls)
            yield f"* {measure.title} {told}."


def page(
    rows: Rows,
    sweeps: Sequence[Sweep],
    budget: DetailSimilarityBudget,
    told: Sequence[str],
    command: str,
    device: str,
) -> str:
    """The results as Markdown.

    Args:
        rows: variant -> pair -> what its pictures gave.
        told: lines on model and encoders.
    """
    starts = ", ".join(map(str, budget.starts))
    about = (
        f"{len(rows[UNTOUCHED])} pair(s). CLiC learns with the official numbers, "
        f"{budget.config.weight_phase.steps} steps on the one taught picture, and draws onto the "
        f"target {budget.pictures} time(s) at t_start {starts} of {budget.sampling_steps} DDIM "
        f"steps (eta 1), guidance {budget.cfg:g}; attention guidance {budget.guidance.eta:g} in "
        f"the first {budget.guidance.steps}. Blended to the end, as the paper has it; the official "
        "code leaves the last four steps free. Pasted: the target's own pixels outside of the "
        "mask. Base model: the object's own words under the same mask, with the same noise. "
        "Mean ± standard deviation over the pairs."
    )
    lines = [
        *head("CLiC on real pictures: the detail, and what is around it", command, device),
        *told,
        "",
        about,
        "",
        *table(rows, [measure.key for measure in MEASURES]),
        "",
        *(f"* {m.title}: {m.meaning}." for m in (*MEASURES, ATTENTION)),
        "",
        "The paper tells no such figures: it asked people. Squares show the object around the "
        "detail too, so that unlike objects are never alike; what counts is the distance from the "
        "base model and from the untouched target.",
        "",
        "## Does the concept bring the detail?",
        "",
        "Gain of CLiC on the same pairs, ± standard error over the pairs, bold beyond two standard "
        "errors. Positive is better: more like the detail, more the object, less changed outside.",
        "",
        *_gains(rows, budget),
        "",
        "## Does it follow what it is told?",
        "",
        "Guidance should pull the word in and the detail with it; a later t_start should keep more "
        "of the target, and bring less of the detail. A series is one picture of one pair. Every "
        "eta has the same noise in every step; values of t_start share only the noise that they "
        "begin with, and all later steps have other noise.",
    ]
    for sweep in sweeps:
        lines += ["", *sweep.lines()]
    return "\n".join(lines)


def _gains(rows: Rows, budget: DetailSimilarityBudget) -> Iterator[str]:
    for number, start in enumerate(budget.starts):
        whole = variant(CLIC, start)
        against: Mapping[str, str] = {variant(BASE, start): whole, UNTOUCHED: whole}
        lines = list(gain_table(rows, whole, against, GAINED, "gain of"))
        yield from lines if number == 0 else lines[2:]
