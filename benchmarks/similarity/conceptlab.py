"""ConceptLab's similarity on real networks, by the paper's protocol.

For every category, pair of negatives and seed a new member is invented as the paper does, with
what BLIP-2 answers besides (where one is named), and in the text encoder's space alone; the same
networks draw the category with the pair as a negative prompt, and its plain words. CLIP tells how
much of the category is in the pictures, how much of the pair, and how near the nearest of 100 nouns
is.

Folders are as diffusers and transformers save them; CLIP may be a name on the Hugging Face hub. All
of it is 75 concepts of 2500 steps, each in two or three ways, and up to 8 GB of pictures:
`--categories pet` is a fifth.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import cast

import torch
from harness.experiment import sheet_path
from harness.models import DTYPES
from harness.results import Column, Result, Row, Section, Table, stamp
from harness.statistics import gain_table, means_of, spread_table
from harness.store import kept_pictures, save_sheet, short_digest
from harness.subject import Options
from torch import Tensor

from conceptloom.concepts.fingerprints import modules_digest
from conceptloom.host.ports import HandleVectors
from conceptloom.methods.conceptlab import invent
from conceptloom.vision.ports import ConceptSpace
from conceptloom.vision.prior_files import load_decoder, load_prior
from conceptloom.vision.vqa import load_blip2
from conceptloom.viz.overlays import sample_strip

from .common import QUICK as QUICK_TOLD
from .common import add_encoder_options, add_run_options
from .encoders import Clip
from .inventions import (
    ADAPTIVE,
    CATEGORIES,
    FULL,
    GIVEN,
    LEARNED,
    MEASURES,
    NOTES,
    NOUNS,
    PROMPT,
    PROMPTED,
    QUICK,
    SAMPLING,
    TEXT,
    VARIANTS,
    Category,
    Cell,
    InventionSimilarityBudget,
    Networks,
    TextSpace,
    cells_of,
    config_of,
)

PAGE = "similarity_conceptlab"

HANDLE = "new"
Measured = Mapping[str, Sequence[float]]  # measure -> a number for every picture
Judged = Mapping[Cell, Measured]
POSITIVE, DISTANCE, _ = MEASURES
CLAIMS = ((POSITIVE, "5 of 5"), (DISTANCE, "4 of 5"))  # of the paper, against Kandinsky's prompts


@dataclass(slots=True)
class StepClock:
    """Wall seconds of a step, over those that were made here; told of every step."""

    seen: list[tuple[int, float]] = field(default_factory=list[tuple[int, float]])

    def __call__(
        self, step: int, total: int, message: str = "", preview: Tensor | None = None
    ) -> None:
        self.seen.append((step, time.perf_counter()))

    @property
    def seconds(self) -> float | None:
        """None where fewer than two steps were seen."""
        if not self.seen or self.seen[0][0] == self.seen[-1][0]:
            return None
        (first, began), (last, ended) = self.seen[0], self.seen[-1]
        return (ended - began) / (last - first)


@dataclass(frozen=True, slots=True)
class Learning:
    """How a cell was learned; nothing where it was not."""

    seconds: float | None = None  # of a step, with its looks
    negatives: Sequence[str] = ()  # at the end


def file_of(networks: Networks, cell: Cell, budget: InventionSimilarityBudget) -> str:
    """Name of a cell's files: other settings have another; other answers where it asks."""
    learned = config_of(cell, budget) if cell.variant in LEARNED else None
    asked = networks.questions if cell.variant == ADAPTIVE else None
    settings = [
        PROMPT,
        asdict(SAMPLING),
        asdict(learned) if learned else None,
        asked.name if asked else "",
    ]
    return f"{cell.file}-{short_digest(json.dumps(settings))}"


def made(
    networks: Networks, cell: Cell, budget: InventionSimilarityBudget, folder: Path
) -> tuple[Tensor, Learning]:
    """Pictures [n, H, W, 3] of a cell from its file, or made now; a stopped run goes on."""
    path = folder / f"{file_of(networks, cell, budget)}.pictures.safetensors"
    beside = path.with_suffix(".json")

    def drawn() -> Iterator[Tensor]:
        handles, learning = _learned(networks, cell, budget, folder)
        beside.parent.mkdir(parents=True, exist_ok=True)
        beside.write_text(json.dumps(asdict(learning)), encoding="utf-8")
        negative = ", ".join(cell.pair) if cell.variant == PROMPTED else ""
        first = 1000 * (cell.seed + 1)  # the same noise for every variant
        image_generator = networks.image_generator(budget, negative, first)
        text = PROMPT.format(f"<{HANDLE}>" if handles else cell.category.word)
        for number in range(budget.pictures):
            yield image_generator.paint([text], handles, first + number)

    pictures = torch.cat(kept_pictures(path, drawn))
    return pictures, Learning(**json.loads(beside.read_text(encoding="utf-8")))


def _learned(
    networks: Networks, cell: Cell, budget: InventionSimilarityBudget, folder: Path
) -> tuple[HandleVectors, Learning]:
    if cell.variant not in LEARNED:
        return {}, Learning()
    space = TextSpace(networks.prior) if cell.variant == TEXT else networks.prior
    looks = cell.variant == ADAPTIVE
    clock = StepClock()
    found = invent(
        cast(ConceptSpace, space),
        HANDLE,
        config_of(cell, budget),
        image_generator=networks.image_generator(budget) if looks else None,
        questions=networks.questions if looks else None,
        folder=folder / f"{file_of(networks, cell, budget)}.state",
        progress=clock,
    )
    return found.concept.handles, Learning(clock.seconds, list(found.negatives))


class Judge:
    """CLIP, with what the texts mean to it."""

    def __init__(self, clip: Clip) -> None:
        self._clip = clip
        self._nouns = self._meant(NOUNS)

    def _meant(self, words: tuple[str, ...]) -> Tensor:
        return self._clip.of_texts([PROMPT.format(word) for word in words])

    def judged(self, pictures: Tensor, cell: Cell) -> Measured:
        """Every measure of every picture [n, H, W, 3]."""
        seen = self._clip.of_images(pictures)
        positive = seen @ self._meant((cell.category.word,))[0]
        nearer = (seen @ self._meant(cell.pair).T).amax(dim=1)
        nearest = (seen @ self._nouns.T).amax(dim=1)
        return {
            "positive": positive.tolist(),
            "distance": (positive - nearer).tolist(),
            "nearest": nearest.tolist(),
        }


def networks_of(options: Options, budget: InventionSimilarityBudget) -> Networks:
    """All that was named, after a look at whether it belongs together.

    Raises:
        ModelError: a folder holds something else, or prior and decoder are of two versions.
        UnsupportedModelError: the prior has no image encoder, which the decoder needs.
    """
    device, dtype = torch.device(options.device), DTYPES[options.dtype]
    decoder = load_decoder(options.decoder, dtype)
    prior = load_prior(options.prior, device, dtype, decoder=decoder)
    questions = load_blip2(options.blip2, device, dtype) if options.blip2 else None
    found = Networks(prior, decoder, questions)
    found.image_generator(budget)
    prior.blank()
    return found


def key_of(options: Options, networks: Networks, budget: InventionSimilarityBudget) -> str:
    """Other networks or another budget have another folder; the rest is in names of files."""
    decoder = modules_digest("decoder", [networks.decoder.unet, networks.decoder.movq])
    settings = [options.dtype, networks.prior.digest, decoder, asdict(budget)]
    return short_digest(json.dumps(settings))


def run(options: Options) -> Result:
    """Invent, draw and judge every cell."""
    budget = QUICK if options.quick else FULL
    judge = Judge(Clip(options.clip, options.device))
    networks = networks_of(options, budget)
    categories = tuple(c for c in CATEGORIES if c.word in options.categories)
    variants = tuple(v for v in VARIANTS if v != ADAPTIVE or options.blip2)
    folder = options.cells / "conceptlab" / key_of(options, networks, budget)
    judged: dict[Cell, Measured] = {}
    learnings: dict[Cell, Learning] = {}
    firsts: dict[Cell, Tensor] = {}
    cells = cells_of(categories, variants, budget)
    for number, cell in enumerate(cells, 1):
        pictures, learnings[cell] = made(networks, cell, budget, folder)
        judged[cell], firsts[cell] = judge.judged(pictures, cell), pictures[0].clone()
        print(f"{number}/{len(cells)} {cell.wish}, {cell.seed}, {cell.variant}", flush=True)
    save_sheet(sheet(firsts), sheet_path(PAGE))
    return result_of(judged, learnings, budget, describe_networks(options, networks), options)


def describe_networks(options: Options, networks: Networks) -> list[str]:
    """Lines on the networks, for the page."""
    size = sum(weight.numel() for weight in networks.prior.prior.parameters()) / 1e6
    answers = f"BLIP-2 `{options.blip2.name}`" if options.blip2 else "nobody"
    told = (
        f"Prior `{options.prior.name}` ({networks.prior.fingerprint}, {size:.4g} M parameters), "
        f"decoder `{options.decoder.name}`, {options.dtype}; CLIP `{options.clip}`; asked: "
        f"{answers}."
    )
    return [told, *([QUICK_TOLD] if options.quick else ())]


def result_of(
    judged: Judged,
    learnings: Mapping[Cell, Learning],
    budget: InventionSimilarityBudget,
    about: Sequence[str],
    options: Options,
) -> Result:
    """What the pictures gave.

    Args:
        learnings: how cells were learned.
    """
    cells = by_wish(judged)
    variants = list(dict.fromkeys(cell.variant for cell in judged))
    categories = list(dict.fromkeys(cell.category for cell in judged))
    wishes = len({cell.wish for cell in judged})
    told = (
        f"{len(categories)} categories, {wishes} pairs of negatives in all, {budget.seeds} "
        f"seed(s), {budget.steps} steps each; {budget.pictures} pictures of a cell, "
        f"{budget.decoder_steps} steps of the decoder, {budget.side} px, from the same noise for "
        "every variant. The pairs and nouns are ours; the paper's are not in the texts that we "
        "could read. Mean ± standard deviation over the cells (pair, seed)."
    )
    meanings = [f"* *{measure.title}*: {measure.meaning}." for measure in MEASURES]
    meanings += [f"* {variant}: {NOTES[variant]}." for variant in variants]
    sections = [
        Section(
            table=spread_table("similarity", cells, variants, MEASURES, 3),
            after="\n".join(meanings),
        ),
        Section(
            heading=f"{GIVEN.capitalize()} against the others",
            text="Gain over the same pairs and seeds, ± standard error; bold beyond two of them.",
            table=gain_table("gains", cells, GIVEN, variants, MEASURES, 3),
        ),
        by_category(judged, categories),
        describe_times(learnings),
    ]
    if left := describe_remaining(learnings):
        heading = "Answers that were added to the pair, seed by seed"
        sections.append(Section(heading=heading, text="\n".join(left)))
    return Result(
        **stamp(options.device, options.dtype),
        about=[*about, told], sections=sections,
        picture=(f"{PAGE}.jpg", "The first picture of every category and variant"),
    )  # fmt: skip


def by_wish(judged: Judged) -> dict[tuple[str, int, str], Measured]:
    """The same with keys as tables have them."""
    return {(cell.wish, cell.seed, cell.variant): row for cell, row in judged.items()}


def by_category(judged: Judged, categories: Sequence[Category]) -> Section:
    """The two measures of the paper, and in how many categories learning is ahead of prompting."""
    titles = [f"{m.title}, {variant}" for m, _ in CLAIMS for variant in (GIVEN, PROMPTED)]
    rows: list[Row] = []
    ahead = dict.fromkeys(("positive", "distance"), 0)
    for category in categories:
        mine = by_wish({c: row for c, row in judged.items() if c.category == category})
        row: Row = {"category": category.word}
        for measure, _ in CLAIMS:
            ours, theirs = (
                float(means_of(mine, variant, measure.key).mean()) for variant in (GIVEN, PROMPTED)
            )
            row[f"{measure.title}, {GIVEN}"] = ours
            row[f"{measure.title}, {PROMPTED}"] = theirs
            ahead[measure.key] += ours > theirs
        rows.append(row)
    counted = ", ".join(
        f"{measure.title} in {ahead[measure.key]} of {len(categories)} (paper: {claimed})"
        for measure, claimed in CLAIMS
    )
    columns = [Column(key="category", title="category", is_text=True)]
    columns += [Column(key=title, title=title, digits=3) for title in titles]
    return Section(
        heading="By category",
        table=Table(name="by category", columns=columns, rows=rows),
        after=f"{GIVEN.capitalize()} is ahead of {PROMPTED}s: {counted}.",
    )


def describe_times(learnings: Mapping[Cell, Learning]) -> Section:
    """Wall seconds of each way to learn."""
    rows: list[Row] = []
    for variant in LEARNED:
        seconds = [one.seconds for cell, one in learnings.items()
                   if cell.variant == variant and one.seconds is not None]  # fmt: skip
        if seconds:
            rows.append({"variant": variant, "seconds": statistics.median(seconds)})
    columns = [
        Column(key="variant", title="variant", is_text=True),
        Column(key="seconds", title="s a step", digits=3),
    ]
    return Section(
        heading="Seconds of a step",
        table=Table(name="times", columns=columns, rows=rows),
        after="Median of the cells, wall time; looks at pictures and answers included.",
    )


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


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--prior", type=Path, required=True, help="Kandinsky's or Karlo's prior")
    parser.add_argument("--decoder", type=Path, required=True, help="Kandinsky's, of its version")
    parser.add_argument("--blip2", type=Path, help="who says what pictures show")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--dtype", default="fp32", choices=("fp32", "fp16"))
    known = [category.word for category in CATEGORIES]
    parser.add_argument("--categories", nargs="+", choices=known, default=known)
    add_encoder_options(parser, clip="CLIP ViT-L/14")
    add_run_options(parser, model=False)
