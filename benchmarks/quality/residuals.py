"""Personalized Residuals: rank, scope, class word, class pictures and LAG's settings.

Learns held-out members from pictures on one background each: with other ranks, with other things
that learn, with pictures of the class beside them, in another scope, with other class words. Draws
them on other backgrounds with LAG, those of the default with LAG's other settings too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path

import torch
from harness.experiment import Cell, Experiment, Found, budget_of, folder_of
from harness.results import Column, Row, Section, Table
from harness.statistics import Cells, gain_table, has_row
from harness.store import as_bytes
from harness.subject import Options
from torch import Tensor

from conceptloom.concepts.concept import Concept, LowRank, stacked
from conceptloom.concepts.fingerprints import model_digest
from conceptloom.host.ports import Host
from conceptloom.methods.personalized_residuals import Localised, sample_lag
from conceptloom.samplers.ddim import sample_ddim, seeded_noise
from conceptloom.tinyworld.presets import CFG
from conceptloom.tinyworld.shapes import BACKGROUNDS

from . import world
from .lag import BASE
from .residuals_variants import (
    DEFAULT,
    EXPECTATIONS,
    GROUPS,
    MARGIN,
    VARIANTS,
    Way,
    row_of,
    settings_of,
)
from .subjects import MEASURES, SubjectBudget, add_verdict, budgets, learned
from .tasks import SUBJECTS

PAGE = "residuals_ablations"

NUMBERS, RANKS = "numbers", "ranks"  # beside the pictures of a cell


class ResidualsExperiment(Experiment):
    """Cells are (object, seed, variant of learning) and give a row for each way of drawing."""

    whole, measures, expectations = DEFAULT, MEASURES, EXPECTATIONS
    shows_gains = False

    def __init__(
        self, host: Host, model: str, budget: SubjectBudget, folder: Path, seeds: int
    ) -> None:
        super().__init__(folder, seeds)
        self.host, self.model, self.budget = host, model, budget
        self.things = list(SUBJECTS)[: budget.things]
        self.variants = tuple(VARIANTS)

    @property
    def rows(self) -> list[str]:
        every = [row_of(v, way) for v in self.variants for way in VARIANTS[v].ways]
        return [*every, BASE]

    def cells(self) -> Iterator[Cell]:
        """Variant by variant, in the order of their weight."""
        for seed in range(self.seeds):
            for variant in self.variants:
                for thing in self.things:
                    yield Cell(thing, seed, variant)

    def key(self, cell: Cell) -> str:
        """Another way of learning or drawing makes the cell again."""
        config, word = settings_of(self.budget, cell.seed, cell.variant, cell.thing)
        ways = {way: asdict(how) for way, how in VARIANTS[cell.variant].ways.items()}
        return repr([word, config, ways])

    def make(self, cell: Cell) -> tuple[dict[str, Tensor], dict[str, str]]:
        """Pictures [n, H, W, 3], 0..255, by "way/background", and what was trained for them."""
        host, budget = self.host, self.budget
        config, word = settings_of(budget, cell.seed, cell.variant, cell.thing)
        concept = learned(host, self.model, cell.thing, budget.images, config, word)
        kept = trained(concept, config)
        for place in SUBJECTS[cell.thing].drawn_on:
            noise = seeded_noise(host, 1000 + cell.seed, budget.pictures, world.PICTURE)
            text = f"{concept.prompts[0]} {BACKGROUNDS[place]}"
            kept[f"{BASE}/{place}"] = self.in_weights(concept, 0.0, text, noise)
            for way, how in VARIANTS[cell.variant].ways.items():
                kept[f"{way}/{place}"] = self.drawn(concept, how, text, noise)
        return kept, {}

    def drawn(self, concept: Concept, way: Way, text: str, noise: Tensor) -> Tensor:
        """Pictures [n, H, W, 3], 0..255."""
        if way.lag is None:
            return self.in_weights(concept, 1.0, text, noise)
        given = Localised(concept=concept, config=way.lag, class_word=way.class_word)
        steps, cfg = self.budget.sampling_steps, CFG
        latent = sample_lag(self.host, [given], [text], noise, steps=steps, cfg=cfg)
        return as_bytes(self.host.decode_latent(latent))

    def in_weights(self, concept: Concept, strength: float, text: str, noise: Tensor) -> Tensor:
        """The same with the concept in the weights; at strength 0 the base model reads V*."""
        host, stack = self.host, stacked([(concept, strength)])
        with host.edited(stack.edits, trainable=False), torch.no_grad():
            prompts = [host.encode_prompt(text, stack.handles)]
            latent = sample_ddim(
                host, prompts, host.encode_prompt(""), noise,
                steps=self.budget.sampling_steps, cfg=CFG,
            )  # fmt: skip
        return as_bytes(host.decode_latent(latent))

    def judge(self, cell: Cell, kept: Mapping[str, Tensor]) -> dict[str, Found]:
        found: dict[str, Found] = {}
        for key, images in kept.items():
            if key in (NUMBERS, RANKS):
                continue
            way, _, place = key.partition("/")
            row = BASE if way == BASE else row_of(cell.variant, way)
            if way == BASE and cell.variant != DEFAULT:
                continue
            into = found.setdefault(row, {measure.key: [] for measure in self.measures})
            for image, plain in zip(images, kept[f"{BASE}/{place}"], strict=True):
                add_verdict(image, plain, cell.thing, place, into)
        return found

    def about(self) -> list[str]:
        budget = self.budget
        return [
            f"{len(self.things)} members that the base model has never seen "
            f"({', '.join(self.things)}), {self.seeds} seed(s): {budget.steps} steps, batch "
            f"{budget.batch_size}, from {budget.images} pictures on one background, "
            f"{budget.pictures} picture(s) on each of two others, {budget.sampling_steps} DDIM "
            "steps. All variants share their noise.",
            "The paper varies its training (Table 3), the class word (Table 4) and the rank (Table "
            "5). Its values could not be read, so its claims are compared here, not its numbers. "
            f"Where something is said to be enough, or to cost nothing, up to {MARGIN:g} worse "
            "still counts as met.",
        ]

    def more_sections(self, cells: Cells) -> list[Section]:
        sections: list[Section] = []
        text = (
            "Mean over the cells and, in brackets, how much better the first row is on the cells "
            "that both have, ± standard error over the objects; bold beyond two of them."
        )
        for heading, (whole, others) in GROUPS.items():
            rows = [row for row in (whole, *others) if has_row(cells, row)]
            if len(rows) > 1:
                table = gain_table(heading, cells, whole, rows, self.measures, means=True)
                sections.append(Section(heading=heading, text=text, table=table))
                text = ""
        return [*sections, self._trained()]

    def _trained(self) -> Section:
        """What learned, and what the variants are."""
        rows: list[Row] = []
        for variant in self.variants:
            cells = (c for c in self.cells() if c.variant == variant)
            kept = next((k for k in map(self.kept, cells) if k is not None), None)
            if kept is not None:
                ranks, (numbers, vectors) = kept[RANKS].tolist(), kept[NUMBERS].tolist()
                rows.append(
                    {
                        "variant": variant,
                        "ranks": ", ".join(map(str, ranks)) or "whole",
                        "numbers": numbers,
                        "vectors": vectors or None,
                        "about": VARIANTS[variant].about,
                    }
                )
        return Section(
            heading="What the variants are, and what they train",
            table=Table(name="trained", columns=TRAINED, rows=rows),
        )


TRAINED = (
    Column(key="variant", title="variant", is_text=True),
    Column(key="ranks", title="ranks", is_text=True),
    Column(key="numbers", title="numbers in weights"),
    Column(key="vectors", title="of V*"),
    Column(key="about", title="", is_text=True),
)


def trained(concept: Concept, config: object) -> dict[str, Tensor]:
    """How many numbers learned, [weights, V*], and the ranks of residuals."""
    changes = concept.weights.values()
    low = [change for change in changes if isinstance(change, LowRank)]
    numbers = sum(change.up.numel() + change.down.numel() for change in low)
    numbers += sum(change.tensor.numel() for change in changes if not isinstance(change, LowRank))
    vectors = sum(rows.numel() for name in concept.handles.values() for rows in name.values())
    return {
        NUMBERS: torch.tensor([numbers, vectors if getattr(config, "train_handle", True) else 0]),
        RANKS: torch.tensor(sorted({change.rank for change in low}), dtype=torch.int64),
    }


def experiment_of(host: Host, options: Options) -> ResidualsExperiment:
    """The experiment with its budget and folder."""
    budget, model = budget_of(options, budgets()), model_digest(host)
    work = [budget.images, budget.pictures, budget.sampling_steps]  # a cell's key has the rest
    folder = folder_of(PAGE, model, work)
    seeds = 1 if options.quick else options.seeds
    return ResidualsExperiment(host, model, budget, folder, seeds)


run, arguments = world.experiment_command(experiment_of, PAGE)
