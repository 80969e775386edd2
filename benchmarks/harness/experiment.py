"""Quality experiments: cells (thing, seed, variant) are learned, drawn, kept, and judged.

An experiment says which cells there are, how one is made and what the judge makes of it; this
module plans them, goes on with what is finished and builds the result.
"""

from __future__ import annotations

import argparse
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors.torch import load_file
from torch import Tensor

from .results import RUNS, Claim, Result, Section, stamp
from .statistics import (
    Cells,
    Expectation,
    Measure,
    cell_rows,
    gain_table,
    judged,
    spread_table,
)
from .store import file_name, is_finished, keep, one_thread, save_sheet, short_digest, words_of
from .subject import Options, add_common_options

Found = dict[str, list[float]]  # measure -> a number for every picture or word
ONE_THREAD = "one CPU thread"


class Cell(NamedTuple):
    """What is made at once: of one thing, with one seed, in one variant."""

    thing: str
    seed: int
    variant: str = "all"


class Experiment(ABC):
    """What a quality benchmark learns and measures.

    Attributes:
        things: names of what is learned.
        variants: in which ways; each is a cell of its own.
        rows: of the table, `whole` first; a cell may give several of them.
        measures: columns.
        expectations: claims of the paper.
        notes: variant -> what it is, where its name does not say so.
        digits: of the tables.
    """

    things: Sequence[str]
    variants: Sequence[str]
    rows: Sequence[str]
    whole: str
    measures: Sequence[Measure]
    expectations: Sequence[Expectation] = ()
    notes: Mapping[str, str] = {}
    digits: int = 2
    shows_gains: bool = True

    def __init__(self, folder: Path, seeds: int) -> None:
        self.folder, self.seeds = folder, seeds

    @abstractmethod
    def key(self, cell: Cell) -> str:
        """Everything of the variant that a cell depends on; model and budget are in the folder."""

    @abstractmethod
    def make(self, cell: Cell) -> tuple[dict[str, Tensor], dict[str, str]]:
        """Learn and draw: tensors, and words to keep beside them."""

    @abstractmethod
    def judge(self, cell: Cell, kept: Mapping[str, Tensor]) -> dict[str, Found]:
        """What the judge says, by row of the table."""

    def about(self) -> list[str]:
        """Paragraphs: what was learned and how long."""
        return []

    def more_claims(self, cells: Cells) -> list[Claim]:
        """Claims that are no gains."""
        return []

    def more_sections(self, cells: Cells) -> list[Section]:
        """Further tables of the page."""
        return []

    def sheet(self) -> tuple[Tensor, int, str] | None:
        """A picture [H, W, 3] of the finished cells, how much larger to save it, its caption."""
        return None

    # ------------------------------------------------------------ the plan and what is finished

    def cells(self) -> Iterator[Cell]:
        """Whole rounds first: after any number of them the variants can be compared."""
        for seed in range(self.seeds):
            for thing in self.things:
                for variant in self.variants:
                    yield Cell(thing, seed, variant)

    def path(self, cell: Cell) -> Path:
        return self.folder / f"{file_name(*cell)}.safetensors"

    def kept(self, cell: Cell) -> dict[str, Tensor] | None:
        """The tensors of a finished cell."""
        path = self.path(cell)
        return load_file(path) if is_finished(path, self.key(cell)) else None

    def words(self, cell: Cell) -> dict[str, str]:
        """What was kept beside them."""
        return words_of(self.path(cell))

    def compute(self, part: tuple[int, int] = (1, 1)) -> None:
        """Make every cell that is not there yet; (k, n): every n-th thing and seed, from k on."""
        of_thing = list(dict.fromkeys((cell.thing, cell.seed) for cell in self.cells()))
        own = set(of_thing[part[0] - 1 :: part[1]])
        todo = [c for c in self.cells() if (c.thing, c.seed) in own and self.kept(c) is None]
        for number, cell in enumerate(todo, 1):
            self.complete(cell, f"{number}/{len(todo)}")

    def complete(self, cell: Cell, number: str) -> None:
        """Make a cell, keep it, and report what the judge says.

        Args:
            number: of the cell, before the report.
        """
        began = time.process_time()
        self.folder.mkdir(parents=True, exist_ok=True)
        tensors, words = self.make(cell)
        keep(self.path(cell), tensors, self.key(cell), **words)
        told = "; ".join(f"{row}: {_told(f)}" for row, f in self.judge(cell, tensors).items())
        spent = time.process_time() - began
        sys.stderr.write(f"{number} {', '.join(map(str, cell))}: {told}; {spent:.0f} s of CPU\n")

    def finished(self) -> Cells:
        """Every row of the cells that are there, as today's judge sees them."""
        found: dict[tuple[str, int, str], Found] = {}
        for cell in self.cells():
            kept = self.kept(cell)
            if kept is not None:
                for row, measured in self.judge(cell, kept).items():
                    found[cell.thing, cell.seed, row] = measured
        return found


def add_options(parser: argparse.ArgumentParser, seeds: int = 0, *, keeps: bool = True) -> None:
    """What every quality subject takes; `seeds` 0 where their number is no option."""
    add_common_options(parser)
    parser.add_argument(
        "--budget", choices=("full", "short"), default="full", help="a night, or an hour of a core"
    )
    if seeds:
        parser.add_argument("--seeds", type=int, default=seeds)
    if keeps:
        parser.add_argument(
            "--part", type=part_of, default=(1, 1), help="1/2 and 2/2 share the work of two cores"
        )
        parser.add_argument("--report", action="store_true", help="from finished cells alone")


def part_of(text: str) -> tuple[int, int]:
    """ "2/3" -> (2, 3): the second of three parts."""
    part, _, parts = text.partition("/")
    return int(part), int(parts or 1)


def budget_of(options: Options, budgets: Mapping[str, Any]) -> Any:
    """The budget that was asked for: quick, short or full."""
    return budgets["quick" if options.quick else options.budget]


def folder_of(page: str, *settings: object) -> Path:
    """Where the cells of a page are that were made with this model and budget."""
    return RUNS / page / short_digest([page, *settings])


def perform(experiment: Experiment, options: Options, page: str, digest: str) -> Result:
    """Compute what is missing, unless only the report is wanted, and build the result."""
    one_thread()
    if not options.report:
        experiment.compute(options.part)
    return result_of(experiment, page, digest)


def result_of(experiment: Experiment, page: str, digest: str) -> Result:
    """The result of the cells that are finished."""
    cells = experiment.finished()
    wanted = len(list(experiment.cells()))
    done = sum(experiment.kept(cell) is not None for cell in experiment.cells())
    state = f"{done} of {wanted} cells are finished" + ("." if done == wanted else " so far.")
    claims: list[Claim] = [
        *experiment.more_claims(cells),
        *judged(cells, experiment.expectations, experiment.measures),
    ]
    sections = [
        Section(
            text="Mean ± standard deviation over the cells.",
            table=spread_table(
                "variants", cells, experiment.rows, experiment.measures, experiment.digits
            ),
            after="\n".join(meanings(experiment)),
        ),
        *([_gains(experiment, cells)] if experiment.shows_gains else []),
        *experiment.more_sections(cells),
    ]
    made = stamp("cpu", ONE_THREAD, f"base model {digest[:12]}")
    return Result(
        **made, about=[state, *experiment.about()],
        sections=sections, claims=claims, claims_about=CLAIMS_ABOUT, cells=cell_rows(cells),
        picture=_picture(experiment, page),
    )  # fmt: skip


CLAIMS_ABOUT = (
    "Gain: how much better the first row is over the same cells, ± standard error over the things "
    "learned, whose seeds are averaged first; positive is better. Met and missed are beyond two "
    "standard errors. Things needed: a power estimate from this round, how many things would make "
    "a gain of this size sure."
)


def meanings(experiment: Experiment) -> list[str]:
    """What the measures and variants are."""
    return [
        *(f"* {measure.title}: {measure.meaning}." for measure in experiment.measures),
        *(f"* {variant}: {note}." for variant, note in experiment.notes.items()),
    ]


def _gains(experiment: Experiment, cells: Cells) -> Section:
    return Section(
        heading="Every measure against every variant",
        text=f"Gain of *{experiment.whole}*, positive is better, ± standard error; bold beyond two "
        "standard errors.",
        table=gain_table("gains", cells, experiment.whole, experiment.rows, experiment.measures),
    )


def _picture(experiment: Experiment, page: str) -> tuple[str, str] | None:
    made = experiment.sheet()
    if made is None:
        return None
    picture, scale, caption = made
    save_sheet(picture, sheet_path(page), scale)
    return f"{page}.jpg", caption


def sheet_path(page: str) -> Path:
    """Where the picture of a result is made; `run.py` puts it beside its page."""
    return RUNS / "sheets" / f"{page}.jpg"


def _told(found: Found) -> str:
    return ", ".join(f"{key} {np.mean(v):.2f}" for key, v in found.items() if len(v))
