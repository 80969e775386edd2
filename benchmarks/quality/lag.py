"""LAG: identity, background and leaks onto other objects, judged by TinyWorld's judge.

Learns held-out members with Personalized Residuals from pictures on one background each, and draws
them on other backgrounds, alone, beside a known object and two stacked: with LAG, with the same
residuals everywhere (a plain LoRA), and with the base model.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path

from harness.experiment import Cell, Experiment, Found, budget_of, folder_of
from harness.results import Section, Status
from harness.statistics import Cells, Expectation, Measure, compared
from harness.store import as_bytes
from harness.subject import Options
from torch import Tensor

from conceptloom.attention.lag_config import LagConfig
from conceptloom.concepts.fingerprints import model_digest
from conceptloom.host.ports import Host
from conceptloom.methods.personalized_residuals import Localised, sample_lag
from conceptloom.samplers.ddim import seeded_noise
from conceptloom.tinyworld.captions import article
from conceptloom.tinyworld.judge.judge import load_judge
from conceptloom.tinyworld.judge.named import SceneJudge
from conceptloom.tinyworld.presets import CFG
from conceptloom.tinyworld.shapes import BACKGROUNDS

from . import world
from .subjects import MEASURES as OF_ONE
from .subjects import SubjectBudget, add_verdict, budgets, config_of, learned
from .tasks import OTHER, PAIRS, SUBJECTS
from .world import handle_of

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
    Expectation("The same, as the judge sees it", LAG, PLAIN, "identity"),
    Expectation("Stacked concepts are both there", LAG, PLAIN, "likeness of both"),
    Expectation("Stacked concepts do not leak", LAG, PLAIN, "leaked"),
)
WORSE = (
    "The median gives half of every map to the concept, whatever its size: where the word's "
    "attention misses a part of the object, that part stays with the base model. The paper shows "
    "such pictures too (Fig. 4, right)."
)


# Those of one concept, and those of pictures with more in them.
MEASURES = (
    *OF_ONE,
    Measure("beside", "identity beside", f"identity in pictures beside {article(OTHER)}"),
    Measure("other", "other", f"share of pictures beside {article(OTHER)} that show one"),
    Measure("both", "both", "two stacked concepts: share of concepts that are recognised"),
    Measure("likeness of both", "likeness of both", "two stacked concepts: likeness of each, mean"),
    Measure(
        "leaked", "leaked", "two stacked concepts: share of pictures that show one's class more "
        "often than asked",
        False,
    ),
)  # fmt: skip


class LagExperiment(Experiment):
    """Cells are (concept or pair, seed) and give a row for each way of drawing."""

    variants = ("all",)
    rows, whole, measures, expectations = tuple(VARIANTS), LAG, MEASURES, EXPECTATIONS
    shows_gains = False

    def __init__(
        self, host: Host, model: str, budget: SubjectBudget, folder: Path, seeds: int
    ) -> None:
        super().__init__(folder, seeds)
        self.host, self.model, self.budget = host, model, budget
        pairs = ["+".join(pair) for pair in PAIRS[: budget.pairs]]
        self.things = [*list(SUBJECTS)[: budget.things], *pairs]

    def key(self, cell: Cell) -> str:
        ways = {name: asdict(config) for name, config in VARIANTS.items()}
        return repr([config_of(self.budget, cell.seed), ways])

    def prompts(self, names: list[str]) -> Iterator[tuple[str, str]]:
        """Kind of a prompt, and its objects."""
        told = [f"a <{handle_of(name)}> {SUBJECTS[name].word}" for name in names]
        if len(names) > 1:
            yield "together", " and ".join(told)
            return
        yield "alone", told[0]
        yield "beside", f"{told[0]} and {article(OTHER)}"

    def make(self, cell: Cell) -> tuple[dict[str, Tensor], dict[str, str]]:
        """Pictures [n, H, W, 3], 0..255, by "variant/prompt/background"."""
        host, budget = self.host, self.budget
        names, config = cell.thing.split("+"), config_of(budget, cell.seed)
        concepts = [learned(host, self.model, n, budget.images, config) for n in names]
        found: dict[str, Tensor] = {}
        for kind, text in self.prompts(names):
            for place in SUBJECTS[names[0]].drawn_on:
                noise = seeded_noise(host, 1000 + cell.seed, budget.pictures, world.PICTURE)
                prompt = [f"a photo of {text} {BACKGROUNDS[place]}"]
                for variant, lag in VARIANTS.items():
                    given = [Localised(concept=concept, config=lag) for concept in concepts]
                    latent = sample_lag(
                        host, given, prompt, noise, steps=budget.sampling_steps, cfg=CFG
                    )
                    found[f"{variant}/{kind}/{place}"] = as_bytes(host.decode_latent(latent))
        return found, {}

    def judge(self, cell: Cell, kept: Mapping[str, Tensor]) -> dict[str, Found]:
        names = cell.thing.split("+")
        rows: dict[str, Found] = {v: {m.key: [] for m in self.measures} for v in VARIANTS}
        for key, images in kept.items():
            variant, kind, place = key.split("/")
            into = rows[variant]
            for image, plain in zip(images, kept[f"{BASE}/{kind}/{place}"], strict=True):
                if kind == "together":
                    self._add_pair(image, names, into)
                    continue
                one: Found = {measure.key: [] for measure in OF_ONE}
                add_verdict(image, plain, names[0], place, one)
                if kind == "beside":
                    one = {key: one[key] for key in ("background", "changed")} | {
                        "beside": one["identity"]
                    }
                    seen = [f"{one.colour} {one.kind}" for one in load_judge().find(image)]
                    one["other"] = [float(OTHER in seen)]
                for key, values in one.items():
                    into[key] += values
        return rows

    def _add_pair(self, image: Tensor, names: list[str], into: Found) -> None:
        verdict = SceneJudge({name: name for name in names}).look(image, names)
        verdicts = verdict.identities.values()
        into["both"] += [float(verdict.right) for verdict in verdicts]
        into["likeness of both"] += [verdict.similarity for verdict in verdicts]
        into["leaked"].append(float(bool(verdict.leaked)))

    def about(self) -> list[str]:
        budget = self.budget
        return [
            f"{', '.join(self.things)}; {self.seeds} seed(s): "
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


def experiment_of(host: Host, options: Options) -> LagExperiment:
    """The experiment with its budget and folder."""
    budget, model = budget_of(options, budgets()), model_digest(host)
    folder = folder_of(PAGE, model, asdict(budget))
    return LagExperiment(host, model, budget, folder, 1 if options.quick else options.seeds)


run, arguments = world.experiment_command(experiment_of, PAGE)
