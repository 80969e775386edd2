"""ConceptLab: are inventions new, and still of their category?

Adaptive negatives against fixed ones, against none, against learning in the text encoder's space,
and against negative prompts at sampling.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from harness.experiment import Cell, Experiment, Found, budget_of, folder_of
from harness.results import Section
from harness.statistics import Cells, Expectation, Measure
from harness.store import as_bytes, as_floats
from harness.subject import Options
from torch import Tensor

from conceptloom.cli.laboratory import ConceptLabBackend, on_host
from conceptloom.cli.models import TINYWORLD
from conceptloom.host.ports import Host
from conceptloom.methods.conceptlab import (
    OFFICIAL_LOOP,
    ConceptLabConfig,
    NegativesConfig,
    SpaceDefaults,
    invent,
    text_space_config,
)
from conceptloom.methods.conceptlab.spec import SPEC
from conceptloom.samplers.ddim import sample_ddim, seeded_noise
from conceptloom.tinyworld.judge.judge import load_judge
from conceptloom.tinyworld.judge.scores import CLEAR, novelty
from conceptloom.tinyworld.members import KINDS
from conceptloom.tinyworld.presets import CFG
from conceptloom.tinyworld.prior import SENTENCES
from conceptloom.training.method_spec import settings_for
from conceptloom.vision.clip_space import ClipSpace
from conceptloom.vision.generators import HostImageGenerator
from conceptloom.viz.overlays import sample_strip

from . import world
from .tasks import INVENTIONS, InventionTask

PAGE = "conceptlab_quality"

HANDLE = "new"


@dataclass(frozen=True, slots=True)
class InventionBudget:
    """How much work a cell is."""

    steps: int
    look_every: int
    prior_steps: int
    pictures: int
    sampling_steps: int


PRESET: ConceptLabConfig = settings_for(SPEC, TINYWORLD).config
# The full one is what TinyWorld invents with.
BUDGETS = {
    "full": InventionBudget(PRESET.steps, PRESET.negatives.every, PRESET.sampling.steps, 16, 25),
    "short": InventionBudget(60, 15, 3, 8, 16),
    "quick": InventionBudget(2, 1, 2, 1, 2),
}

ADAPTIVE, FIXED, ALL_FIXED, NONE = "adaptive", "fixed pair", "all sixteen fixed", "no negatives"
IN_TEXT = "adaptive, in text space"
PROMPTED, ALL_PROMPTED, WORDS = (
    "negative prompt, pair",
    "negative prompt, all sixteen",
    "words alone",
)
LEARNED = (ADAPTIVE, FIXED, ALL_FIXED, NONE, IN_TEXT)
VARIANTS = (*LEARNED, PROMPTED, ALL_PROMPTED, WORDS)
MEANING = {
    ADAPTIVE: "begins with no negatives; what the answerer sees in the pictures is added",
    FIXED: "two classes from the first step on, nobody is asked",
    ALL_FIXED: "all sixteen classes from the first step on",
    NONE: "the category alone",
    IN_TEXT: "the same as adaptive, but compared is the text encoder's feature and not what the "
    "prior imagines; the paper's CLIP-ConceptLab",
    PROMPTED: "nothing is learned; the base model draws the category with the pair as its negative",
    ALL_PROMPTED: "the same with all sixteen names in the negative prompt",
    WORDS: "nothing is learned; the base model draws the category's own words",
}
MEASURES = (
    Measure(
        "positive", "positive", "cosine of the pictures with the category, in the prior's space"
    ),
    Measure("distance", "distance", "positive minus the cosine with the nearest of the sixteen "
            "classes"),
    Measure("novelty", "novelty", "1 - likeness to the nearest of many known members, as the judge "
            "describes the largest object"),
    Measure("new", "new", "share of pictures whose object is of no class without doubt, and "
            "no known member"),
    Measure("seen", "an object", "share of pictures in which the judge finds an object at all"),
    Measure("category", "category", "probability of all classes of the category together"),
    Measure("named", "named", "share of pictures whose object the judge calls by a class of the "
            f"category with a probability of {CLEAR:g} or more", False),
)  # fmt: skip
MEMBERS = tuple(KINDS)
CLAIMED = ("positive", "distance", "novelty")
AGAINST = (FIXED, ALL_FIXED, NONE, IN_TEXT, PROMPTED, ALL_PROMPTED, WORDS)
EXPECTATIONS = [
    Expectation(f"Adaptive negatives are better than {variant}", ADAPTIVE, variant, key)
    for variant in AGAINST
    for key in CLAIMED
]
PAPER = """\
What the paper claims, and the rows that can show it here: higher positive similarity than negative
prompts (in 5 of 5 categories) and larger distance to members (in 4 or 5 of 5): both negative
prompts; the negatives make an invention differ from known members: *no negatives*, distance and
novelty; negatives found on the way lead farther than a few given ones: *fixed pair*; constraints on
what the prior imagines do more than constraints on text features: *in text space*."""
JUDGES = """\
*Positive* and *distance* are measured in the very space that all handles but those in text space
learn in, as in the paper, where it is CLIP's. The judge that measures novelty also answers the
questions of the adaptive variants: for them it is no independent one. TinyWorld is 128 px wide and
knows sixteen classes; its prior and image encoder are as small. The figures show how this
implementation behaves there. They do not repeat the paper's study with Kandinsky 2.1 and people's
judgement."""


def config_of(
    task: InventionTask,
    budget: InventionBudget,
    seed: int,
    variant: str,
    space: SpaceDefaults,
) -> ConceptLabConfig:
    """The settings of a cell in which something is learned."""
    negatives = {
        ADAPTIVE: NegativesConfig(every=budget.look_every),
        FIXED: NegativesConfig(start=task.pair, every=0),
        ALL_FIXED: NegativesConfig(start=MEMBERS, every=0),
        NONE: NegativesConfig(every=0),
        IN_TEXT: NegativesConfig(every=budget.look_every),
    }
    config = replace(
        PRESET,
        positives=(task.category,),
        negatives=negatives[variant],
        steps=budget.steps,
        sampling=replace(PRESET.sampling, steps=budget.prior_steps),
        gallery=(SENTENCES[0],),  # the one that is asked about
        seed=seed,
    )
    config = space.fitted(config)
    return text_space_config(config) if variant == IN_TEXT else config


class InventionExperiment(Experiment):
    """Cells are (category, seed, variant)."""

    variants = rows = VARIANTS
    whole, measures, expectations, notes, digits = ADAPTIVE, MEASURES, EXPECTATIONS, MEANING, 3

    def __init__(
        self,
        host: Host,
        laboratory: ConceptLabBackend,
        budget: InventionBudget,
        folder: Path,
        seeds: int,
    ) -> None:
        super().__init__(folder, seeds)
        self.host, self.laboratory, self.budget = host, laboratory, budget
        self.tasks = {task.category: task for task in INVENTIONS}
        self.things = tuple(self.tasks)

    def key(self, cell: Cell) -> str:
        if cell.variant not in LEARNED:
            return repr([self._negatives(cell)])
        return repr(self.config(cell))

    def config(self, cell: Cell) -> ConceptLabConfig:
        task, space = self.tasks[cell.thing], self.laboratory.defaults
        return config_of(task, self.budget, cell.seed, cell.variant, space)

    def _negatives(self, cell: Cell) -> list[str]:
        """What a negative prompt names."""
        if cell.variant == ALL_PROMPTED:
            return list(MEMBERS)
        return list(self.tasks[cell.thing].pair) if cell.variant == PROMPTED else []

    def make(self, cell: Cell) -> tuple[dict[str, Tensor], dict[str, str]]:
        """Pictures [n, H, W, 3] as bytes, and the negatives at the end."""
        host, budget, laboratory = self.host, self.budget, self.laboratory
        handles, left, words = {}, self._negatives(cell), self.tasks[cell.thing].category
        negative = ", ".join(left)
        if cell.variant in LEARNED:
            made = invent(
                ClipSpace(host) if cell.variant == IN_TEXT else laboratory.space,
                HANDLE,
                self.config(cell),
                loop=OFFICIAL_LOOP,
                image_generator=HostImageGenerator(
                    host, steps=budget.sampling_steps, cfg=CFG, size=world.PICTURE
                ),
                questions=laboratory.questions,
            )
            handles, left, words = made.concept.handles, list(made.negatives), f"<{HANDLE}>"
        with torch.no_grad():
            prompt = host.encode_prompt(SENTENCES[0].format(concept=words), handles)
            noise = seeded_noise(host, 1000 + cell.seed, budget.pictures, world.PICTURE)
            latent = sample_ddim(
                host, [prompt], host.encode_prompt(negative), noise,
                steps=budget.sampling_steps, cfg=CFG,
            )  # fmt: skip
            pictures = as_bytes(host.decode_latent(latent))
        return {"pictures": pictures}, {"negatives": ", ".join(left)}

    def judge(self, cell: Cell, kept: Mapping[str, Tensor]) -> dict[str, Found]:
        """Every measure of every picture; novelty of those that show an object."""
        space, judge = self.laboratory.space, load_judge()
        images = as_floats(kept["pictures"])
        seen = space.look_at(images)
        category, *known = space.meanings(
            [SENTENCES[0].format(concept=word) for word in (cell.thing, *MEMBERS)]
        )
        positive = seen @ category
        nearest = (seen @ torch.stack(known).T).max(dim=1).values
        largest = [objects[0] for objects in map(judge.find, images) if objects]
        found = [novelty(judge, one, cell.thing) for one in largest]
        unseen = [0.0] * (len(images) - len(found))  # pictures without an object
        return {
            cell.variant: {
                "positive": positive.tolist(),
                "distance": (positive - nearest).tolist(),
                "novelty": [1 - one.nearest for one in found],
                "new": [*(float(one.novel) for one in found), *unseen],
                "seen": [*(1.0 for _ in found), *unseen],
                "category": [*(one.category for one in found), *unseen],
                "named": [*(float(one.surest >= CLEAR) for one in found), *unseen],
            }
        }

    def about(self) -> list[str]:
        budget = self.budget
        return [
            f"{len(self.things)} categories ({', '.join(self.things)}), {self.seeds} seeds. "
            f"{budget.steps} steps at {PRESET.learning_rate:g}, lambda {PRESET.positive_weight:g}, "
            f"{budget.prior_steps} steps of the prior at guidance {PRESET.sampling.guidance:g}, a "
            "look "
            f"every {budget.look_every}; {budget.pictures} pictures of each cell in "
            f"{budget.sampling_steps} DDIM steps, from the same noise for every variant.",
            JUDGES,
            PAPER,
        ]

    def more_sections(self, cells: Cells) -> list[Section]:
        """Which negatives the adaptive runs found by themselves."""
        lines: list[str] = []
        for thing in self.things:
            every = [Cell(thing, seed, ADAPTIVE) for seed in range(self.seeds)]
            done = [cell for cell in every if self.kept(cell) is not None]
            if done:
                words = "; ".join(self.words(cell)["negatives"] or "none" for cell in done)
                lines.append(f"* {thing}: {words}.")
        return [Section(heading="Negatives that were found on the way", text="\n".join(lines))]

    def sheet(self) -> tuple[Tensor, int, str]:
        """One picture of every category and variant, seed 0."""
        images, captions = list[Tensor](), list[str]()
        for thing in self.things:
            for variant in VARIANTS:
                kept = self.kept(Cell(thing, 0, variant))
                blank = torch.ones(*world.PICTURE, 3)
                images.append(blank if kept is None else as_floats(kept["pictures"][0]))
                captions.append(variant if thing == self.things[0] else thing)
        caption = (
            "The first picture of seed 0: a row for each category, a column for each variant, in "
            "the order of the table"
        )
        return sample_strip(images, captions, n_columns=len(VARIANTS)), 1, caption


def experiment_of(host: Host, options: Options) -> InventionExperiment:
    """The experiment with its budget and folder."""
    budget, laboratory = budget_of(options, BUDGETS), on_host(host, TINYWORLD, TINYWORLD)
    folder = folder_of(PAGE, laboratory.space.digest, asdict(budget))
    experiment = InventionExperiment(host, laboratory, budget, folder, options.seeds)
    if options.quick:
        experiment.things, experiment.seeds = experiment.things[:1], 1
    return experiment


run, arguments = world.experiment_command(experiment_of, PAGE, seeds=5)
