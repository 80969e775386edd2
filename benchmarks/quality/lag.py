"""LAG: identity, background and leaks onto other objects, judged by the world's ruler.

Learns unseen objects with Personalized Residuals from pictures on one background each, and draws
them on other backgrounds, alone, beside a plain object and two stacked: with LAG, with the same
residuals everywhere (a plain LoRA), and with the base model.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path

from harness.experiment import (
    Cell,
    Experiment,
    Found,
    add_options,
    budget_of,
    folder_of,
    perform,
)
from harness.results import Result, Section, Status
from harness.statistics import Cells, Expectation, Measure, compared
from harness.store import as_bytes
from harness.subject import Options
from torch import Tensor
from worlds.world import World, handle_of, load_world

from conceptloom.attention.lag_config import LagConfig
from conceptloom.concepts.fingerprints import model_digest
from conceptloom.host.ports import Host
from conceptloom.methods.personalized_residuals import Localised, sample_lag
from conceptloom.samplers.ddim import seeded_noise

from .subjects import (
    SubjectBudget,
    SubjectJudge,
    budgets_of,
    config_of,
    learned,
    measures_for,
)

PAGE = "residuals_quality"

LAG, PLAIN, BASE = "LAG", "plain LoRA", "base model"
VARIANTS = {
    LAG: LagConfig(),
    PLAIN: LagConfig(localised=False),
    BASE: LagConfig(strength=0.0),
}
# What the paper says about LAG against the same residuals everywhere (Sec. 3.2 and Fig. 4).
EXPECTATIONS = (
    Expectation("The background is the one that was asked for", LAG, PLAIN, "background"),
    Expectation("What is not the concept stays with the base model", LAG, PLAIN, "changed"),
    Expectation("Other objects are lost less often", LAG, PLAIN, "other"),
    Expectation("The concept keeps its identity", LAG, PLAIN, "likeness"),
    Expectation("The same, as the ruler judges it", LAG, PLAIN, "identity"),
    Expectation("Stacked concepts are both there", LAG, PLAIN, "likeness of both"),
    Expectation("Stacked concepts do not leak", LAG, PLAIN, "leaked"),
)
WORSE = (
    "The median gives half of every map to the concept, whatever its size: where the word's "
    "attention misses a part of the object, that part stays with the base model. The paper shows "
    "such pictures too (Fig. 4, right)."
)


def measures_of(world: World) -> tuple[Measure, ...]:
    """Those of one concept, and those of pictures with more in them."""
    return (
        *measures_for(world),
        Measure(
            "other", "other", f"share of pictures beside a {' '.join(world.other)} that show one"
        ),
        Measure("both", "both", "two stacked concepts: share of concepts that are recognised"),
        Measure(
            "likeness of both", "likeness of both", "two stacked concepts: likeness of each, mean"
        ),
        Measure(
            "leaked",
            "leaked",
            "two stacked concepts: share of pictures in which one shows twice, or another of the "
            "unseen objects",
            False,
        ),
    )


class LagExperiment(Experiment):
    """Cells are (concept or pair, seed) and give a row for each way of drawing."""

    variants = ("all",)
    rows, whole, expectations = tuple(VARIANTS), LAG, EXPECTATIONS
    shows_gains = False

    def __init__(
        self, world: World, host: Host, model: str, budget: SubjectBudget, folder: Path, seeds: int
    ) -> None:
        super().__init__(folder, seeds)
        self.world, self.host, self.model, self.budget = world, host, model, budget
        self.measures, self._judge = measures_of(world), SubjectJudge(world)
        pairs = ["+".join(pair) for pair in world.pairs[: budget.pairs]]
        self.things = [*list(world.subjects)[: budget.things], *pairs]

    def key(self, cell: Cell) -> str:
        ways = {name: asdict(config) for name, config in VARIANTS.items()}
        return repr([config_of(self.world, self.budget, cell.seed), ways])

    def prompts(self, names: list[str]) -> Iterator[tuple[str, str]]:
        """Kind of a prompt, and its objects."""
        told = [f"a <{handle_of(name)}> {self.world.subjects[name].word}" for name in names]
        if len(names) > 1:
            yield "together", " and ".join(told)
            return
        yield "alone", told[0]
        yield "beside", f"{told[0]} and a {' '.join(self.world.other)}"

    def make(self, cell: Cell) -> tuple[dict[str, Tensor], dict[str, str]]:
        """Pictures [n, H, W, 3], 0..255, by "variant/prompt/background"."""
        host, world, budget = self.host, self.world, self.budget
        names, config = cell.thing.split("+"), config_of(world, budget, cell.seed)
        concepts = [learned(world, host, self.model, n, budget.images, config) for n in names]
        found: dict[str, Tensor] = {}
        for kind, text in self.prompts(names):
            for place in world.subjects[names[0]].drawn_on:
                noise = seeded_noise(host, 1000 + cell.seed, budget.pictures, world.size)
                prompt = [f"a photo of {text} {world.backgrounds[place]}"]
                for variant, lag in VARIANTS.items():
                    given = [Localised(concept=concept, config=lag) for concept in concepts]
                    latent = sample_lag(
                        host, given, prompt, noise, steps=budget.sampling_steps, cfg=world.cfg
                    )
                    found[f"{variant}/{kind}/{place}"] = as_bytes(host.decode_latent(latent))
        return found, {}

    def judge(self, cell: Cell, kept: Mapping[str, Tensor]) -> dict[str, Found]:
        names, ruler = cell.thing.split("+"), self.world.ruler()
        rows: dict[str, Found] = {v: {m.key: [] for m in self.measures} for v in VARIANTS}
        for key, images in kept.items():
            variant, kind, place = key.split("/")
            into = rows[variant]
            for image, plain in zip(images, kept[f"{BASE}/{kind}/{place}"], strict=True):
                if kind == "together":
                    self._add_pair(image, names, into)
                    continue
                self._judge.add(image, plain, names[0], place, into)
                if kind == "beside":
                    seen = [self.world.colour_and_class(one) for one in ruler.find(image)]
                    into["other"].append(float(self.world.other in seen))
        return rows

    def _add_pair(self, image: Tensor, names: list[str], into: Found) -> None:
        ruler, references = self.world.ruler(), self._judge.references
        verdicts = [ruler.identity(image, references, name) for name in names]
        into["both"] += [float(verdict.right) for verdict in verdicts]
        into["likeness of both"] += [verdict.similarity for verdict in verdicts]
        into["leaked"].append(float(bool(ruler.leaked(image, references, names))))

    def about(self) -> list[str]:
        budget = self.budget
        return [
            f"{budget.things} concepts and {budget.pairs} pairs, {self.seeds} seed(s): "
            f"{budget.steps} steps from {budget.images} pictures on one background, "
            f"{budget.pictures} picture(s) for every prompt on each of two others, "
            f"{budget.sampling_steps} DDIM steps; the variants share their noise."
        ]

    def more_sections(self, cells: Cells) -> list[Section]:
        """Measures in which LAG surely costs something."""
        worse = [
            measure.title
            for measure in self.measures
            if compared(cells, LAG, PLAIN, measure).status() is Status.MISSED
        ]
        told = "In no measure is LAG worse by more than two standard errors."
        if worse:
            told = f"LAG is worse in: {', '.join(worse)}. {WORSE}"
        return [Section(heading="What LAG costs", text=told)]


def run(options: Options) -> Result:
    """Learn, draw and judge every concept and pair."""
    world = load_world(options.world)
    host, budget = world.open("cpu"), budget_of(options, budgets_of(world))
    model = model_digest(host)
    folder = folder_of(PAGE, model, asdict(budget), world.name)
    seeds = 1 if options.quick else options.seeds
    experiment = LagExperiment(world, host, model, budget, folder, seeds)
    return perform(experiment, options, PAGE, model)


def arguments(parser: argparse.ArgumentParser) -> None:
    add_options(parser, seeds=3)
