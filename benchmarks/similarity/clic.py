"""CLiC on pairs of real pictures: is the detail there, and is the rest as it was?

PAIRS holds a folder for each pair, with a taught picture and a target, a mask in both, and a
`pair.json` that ties them together; similarity/pairs.py shows one. Every taught picture is learned
once with the official numbers; its detail is drawn onto the target with the official sweep of
t_start, and beside it what the base model makes of the object's own words under the same mask.

LPIPS of what is outside of the mask needs `pip install lpips` and AlexNet's weights as torchvision
has them, from a file or ("torchvision") downloaded; without --lpips that column stays empty.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from harness.models import open_model, picture_side
from harness.results import Column, Result, Row, Section, Table, stamp
from harness.statistics import Measure, describe_trend, gain_table, spread_table
from harness.store import NO_PREVIEW, kept_pictures
from harness.subject import Options
from quality.clic_eta import attention_under
from torch import Tensor

from conceptloom.concepts.concept import AppliedConcepts, stacked
from conceptloom.concepts.fingerprints import content_key
from conceptloom.host.diffusers import DiffusersHost
from conceptloom.methods.clic import learn_detail
from conceptloom.samplers.editing import EditConfig, Region, edit_latents
from conceptloom.samplers.masks import composited

from .common import (
    Found,
    Rows,
    add_encoder_options,
    add_run_options,
    cells_of,
    checkpoint_digest,
    decoded,
    describe_run,
)
from .costs import cost_section, costs_of, learned_concept
from .encoders import Clip, Dino, Distance, Lpips, outside, square_around
from .pairs import (
    BASE,
    CLIC,
    CONCEPT,
    FEATHER_PX,
    PAPER_TIME,
    PASTED,
    REBUILT,
    UNTOUCHED,
    DetailSimilarityBudget,
    Pair,
    edit_config,
    full_budget,
    pairs_of,
    plain_of,
    prompt_of,
    quick_budget,
    rows_of,
    taught_config,
    variant,
)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Work:
    """A pair and all that is made of it: from its files, or now.

    Attributes:
        pair: at the size to draw at.
        learned: file of the concept.
        folder: of the pictures.
    """

    host: DiffusersHost
    pair: Pair
    budget: DetailSimilarityBudget
    seed: int
    learned: Path
    folder: Path

    def stack(self) -> AppliedConcepts:
        """What is learned of the source; a stopped learning goes on."""
        source, config = self.pair.source, taught_config(self.budget, self.pair.source)
        concept = learned_concept(
            self.learned,
            self.host.device.type,
            lambda states, progress: learn_detail(
                self.host, source.scene, config, loop=self.budget.loop,
                previews=NO_PREVIEW, folder=states, progress=progress,
            ),
        )  # fmt: skip
        return stacked([(concept, 1.0)])

    def pictures(self) -> Mapping[str, Tensor]:
        """[n, H, W, 3] of every row of the table."""
        budget, image = self.budget, self.pair.target.image[None]
        found: dict[str, Tensor] = {}
        for what in (CLIC, BASE):
            ways = [edit_config(budget, start) for start in budget.starts]
            drawn = self._kept(what, ways, budget.pictures, with_concept=what == CLIC)
            for start, images in zip(budget.starts, drawn, strict=True):
                found[variant(what, start)] = images
                if what == CLIC:
                    pasted = composited(images, image, self.pair.target.mask, FEATHER_PX)
                    found[variant(what, start) + PASTED] = pasted
        found[REBUILT] = decoded(self.host, self.host.encode_image(image))
        return {**found, UNTOUCHED: image}

    def over_eta(self) -> Sequence[Tensor]:
        """[n, H, W, 3] for each eta of the guidance, at the first t_start."""
        budget = self.budget
        ways = [edit_config(budget, budget.starts[0], eta) for eta in budget.etas]
        return self._kept("over-eta", ways, budget.sweep_pictures)

    def over_start(self) -> Sequence[Tensor]:
        """[n, H, W, 3] for each t_start."""
        ways = [edit_config(self.budget, start) for start in self.budget.sweep_starts]
        return self._kept("over-t_start", ways, self.budget.sweep_pictures)

    def attention(self, images: Tensor) -> list[float]:
        """How much the detail's word is looked at under the mask, in each of the pictures."""
        host, target, stack = self.host, self.pair.target, self.stack()
        with host.edited(stack.edits, trainable=False), torch.no_grad():
            prompt = host.encode_prompt(prompt_of(self.budget, target), stack.handles)
            latents = [host.encode_image(image[None]) for image in images]
            return [
                attention_under(host, latent, prompt, f"<{CONCEPT}>", target.mask)
                for latent in latents
            ]

    def _kept(
        self, name: str, ways: Sequence[EditConfig], count: int, *, with_concept: bool = True
    ) -> list[Tensor]:
        def drawn() -> Iterator[Tensor]:
            stack = self.stack() if with_concept else stacked([])
            return (edited(self, stack, way, count) for way in ways)

        file = f"{name.replace(' ', '-')}.pictures.safetensors"
        return kept_pictures(self.folder / file, drawn)


def edited(work: Work, stack: AppliedConcepts, config: EditConfig, count: int) -> Tensor:
    """[count, H, W, 3] of the target with the concept under its mask; the base model if none.

    All share the noise of their number, whatever the concept and the guidance. Of another t_start
    only the first: noise is drawn step by step.
    """
    host, target = work.host, work.pair.target
    text = prompt_of(work.budget, target) if stack.handles else plain_of(target)
    with host.edited(stack.edits, trainable=False), torch.no_grad():
        prompt, negative = host.encode_prompt(text, stack.handles), host.encode_prompt("")
    words = (f"<{CONCEPT}>",) if stack.handles else ()
    latents = edit_latents(
        host,
        host.encode_image(target.image[None]),
        [Region(prompt, target.mask, words)],
        negative,
        config,
        weights=stack.edits,
        seed=work.seed,
        rows=count,
    )
    return decoded(host, latents)


def work_of(
    host: DiffusersHost,
    name: str,
    pair: Pair,
    budget: DetailSimilarityBudget,
    seed: int,
    cells: Path,
) -> Work:
    """A pair with its files: other settings, models or pictures have others.

    A source that several pairs have is one file.
    """
    source, target, model = pair.source, pair.target, checkpoint_digest(host)
    config = asdict(taught_config(budget, source))
    learning = [str(host.dtype), config, asdict(budget.loop), dict(source.scene.words)]
    taught = content_key(model, learning, {"image": source.image, "mask": source.mask})
    drawing = [taught, seed, asdict(budget), target.word]
    drawn = content_key(model, drawing, {"image": target.image, "mask": target.mask})
    learned = cells / "clic" / "sources" / taught[:12] / "detail.concept.safetensors"
    return Work(
        host=host, pair=pair, budget=budget, seed=seed, learned=learned,
        folder=cells / "clic" / f"{name}-{drawn[:12]}",
    )  # fmt: skip


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
    rows: Sequence[Found]
    expected: Sequence[tuple[Measure, bool]]

    def section(self) -> Section:
        """Means for every value, and whether they follow what is swept."""
        measures = [m for m in (ATTENTION, *MEASURES) if self.rows[0].get(m.key)]
        rows: list[Row] = [
            {self.over: value} | {m.key: float(np.mean(row[m.key])) for m in measures}
            for value, row in zip(self.values, self.rows, strict=True)
        ]
        columns = [Column(key=self.over, title=self.over)]
        columns += [Column(key=m.key, title=m.title, digits=4) for m in measures]
        trends: list[str] = []
        for measure, falls in self.expected:
            series = list(zip(*(row[measure.key] for row in self.rows), strict=True))
            trend = describe_trend(series, self.over, self.values, falls=falls)
            trends.append(f"* {measure.title} {trend}.")
        return Section(
            heading=f"Does it follow {self.over}?",
            text=SWEPT,
            table=Table(name=self.over, columns=columns, rows=rows),
            after="\n".join(trends),
        )


SWEPT = (
    "Guidance should pull the word in and the detail with it; a later t_start should keep more of "
    "the target, and bring less of the detail. A series is one picture of one pair. Every eta has "
    "the same noise in every step; values of t_start share only the noise that they begin with, "
    "and all later steps have other noise."
)


def measures_of(options: Options, device: str) -> Measures:
    """What was named to compare with."""
    distance = Lpips(options.lpips, device) if options.lpips else None
    return Measures(Clip(options.clip, device), Dino(options.dino, device), distance)


def swept(
    works: Iterable[Work], measures: Measures, made: Iterable[Sequence[Tensor]]
) -> list[Found]:
    """For every value what the pictures of all pairs gave, and how much the word is looked at.

    Args:
        made: for each pair the pictures of every value.
    """
    rows: list[dict[str, list[float]]] = []
    for work, pictures in zip(works, made, strict=True):
        rows = rows or [{} for _ in pictures]
        looked = iter(work.attention(torch.cat(list(pictures))))
        for row, images in zip(rows, pictures, strict=True):
            found = measured(measures, work.pair, images)
            for key, figures in {**found, ATTENTION.key: islice(looked, len(images))}.items():
                row.setdefault(key, []).extend(figures)
    return list(rows)


def run(options: Options) -> Result:
    """Learn, draw and measure every pair."""
    pairs = pairs_of(options.pairs)
    measures_of(options, "cpu")  # what is in the way is reported before hours of learning
    host = open_model(options)
    side = options.resolution or picture_side(host)
    budget = (quick_budget if options.quick else full_budget)(side, options.seed)
    works: dict[str, Work] = {}
    for name, pair in pairs.items():
        fitted = pair.at(side, host.pixels_per_latent)
        works[name] = work_of(host, name, fitted, budget, options.seed, options.cells)
    for name, work in works.items():
        for make in (work.pictures, work.over_eta, work.over_start):
            make()
        print(f"{name}: drawn", flush=True)
    measures = measures_of(options, options.device)
    rows: dict[str, dict[str, Found]] = {row: {} for row in rows_of(budget)}
    for name, work in works.items():
        for row, images in work.pictures().items():
            rows[row][name] = measured(measures, work.pair, images)
    every = works.values()
    by_eta = swept(every, measures, (work.over_eta() for work in every))
    by_start = swept(every, measures, (work.over_start() for work in every))
    sweeps = [
        Sweep("eta", budget.etas, by_eta, [(ATTENTION, False), (DETAIL, False)]),
        Sweep("t_start", budget.sweep_starts, by_start, [(BEFORE, False), (DETAIL, True)]),
    ]
    networks = f"CLIP `{options.clip}`, DINO `{options.dino}`, LPIPS {options.lpips or 'left out'}."
    about = [*describe_run(options, host, side, networks), describe_budget(rows, budget)]
    costs = costs_of(dict.fromkeys(work.learned for work in every))
    sections = [
        *_similar(rows, budget),
        *(sweep.section() for sweep in sweeps),
        cost_section({CLIC: costs}, PAPER_TIME),
    ]
    return Result(**stamp(options.device, options.dtype), about=about, sections=sections)


def describe_budget(rows: Rows, budget: DetailSimilarityBudget) -> str:
    """What is learned and drawn."""
    starts = ", ".join(map(str, budget.starts))
    return (
        f"{len(rows[UNTOUCHED])} pair(s). CLiC learns with the official numbers, "
        f"{budget.config.weight_phase.steps} steps on the one taught picture, and draws onto the "
        f"target {budget.pictures} time(s) at t_start {starts} of {budget.sampling_steps} DDIM "
        f"steps (eta 1), guidance {budget.cfg:g}; attention guidance {budget.guidance.eta:g} in "
        f"the first {budget.guidance.steps}. Blended to the end, as the paper has it; the official "
        "code leaves the last four steps free. Pasted: the target's own pixels outside of the "
        "mask. Base model: the object's own words under the same mask, with the same noise. "
        "Mean ± standard deviation over the pairs."
    )


def _similar(rows: Rows, budget: DetailSimilarityBudget) -> Iterator[Section]:
    cells = cells_of(rows)
    told = "\n".join(f"* {m.title}: {m.meaning}." for m in (*MEASURES, ATTENTION))
    yield Section(
        table=spread_table("similarity", cells, rows, MEASURES, 3),
        after=f"{told}\n\nThe paper has no such figures: it asked people. Squares show the object "
        "around the detail too, so unlike objects are never alike; what counts is the distance "
        "from the base model and from the untouched target.",
    )
    for start in budget.starts:
        whole = variant(CLIC, start)
        yield Section(
            heading=f"Does the concept bring the detail, t_start {start}?",
            text="Gain of CLiC on the same pairs, ± standard error over them, bold beyond two. "
            "Positive is better: more like the detail, more the object, less changed outside.",
            table=gain_table(
                whole, cells, whole, [variant(BASE, start), UNTOUCHED], list(GAINED), 3
            ),
        )


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--pairs", type=Path, required=True, help="a folder of pair folders")
    add_run_options(parser)
    add_encoder_options(parser, clip="CLIP ViT-L/14", dino="DINO ViT-B/16")
    parser.add_argument("--lpips", help="file of AlexNet's weights, or `torchvision`")
