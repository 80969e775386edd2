"""ConceptLab: are inventions new, and still of their category?

Adaptive negatives against fixed ones, against none, against learning in the text encoder's space,
and against negative prompts at sampling.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from harness.experiment import (
    Cell,
    Experiment,
    Found,
    add_options,
    budget_of,
    folder_of,
    perform,
)
from harness.results import Result, Section
from harness.statistics import Cells, Expectation, Measure
from harness.store import as_bytes, as_floats
from harness.subject import Options
from torch import Tensor
from worlds.world import InventionTask, World, load_world

from conceptloom.cli.laboratory import ConceptLabBackend, on_host
from conceptloom.cli.models import TINYWORLD
from conceptloom.host.ports import Host
from conceptloom.methods.conceptlab import (
    ConceptLabConfig,
    NegativesConfig,
    invent,
    text_space_config,
)
from conceptloom.samplers.ddim import sample_ddim, seeded_noise
from conceptloom.tinyworld.prior import SENTENCES
from conceptloom.tinyworld.silhouettes import nearest_silhouette
from conceptloom.vision.clip_space import ClipSpace
from conceptloom.vision.generators import HostImageGenerator
from conceptloom.viz.overlays import sample_strip

PAGE = "conceptlab_quality"

HANDLE = "new"


@dataclass(frozen=True, slots=True)
class InventionBudget:
    """How much work a cell is."""

    steps: int
    look_every: int
    learning_rate: float
    positive_weight: float
    prior_steps: int
    guidance: float
    pictures: int
    sampling_steps: int


BUDGETS = {
    "full": InventionBudget(300, 50, 1e-2, 1.0, 5, 4.0, 16, 25),
    "short": InventionBudget(60, 15, 1e-2, 1.0, 3, 4.0, 8, 16),
    "quick": InventionBudget(2, 1, 1e-2, 1.0, 2, 4.0, 1, 2),
}

ADAPTIVE, FIXED, ALL_FIXED, NONE = "adaptive", "fixed pair", "all six fixed", "no negatives"
IN_TEXT = "adaptive, in text space"
PROMPTED, ALL_PROMPTED, WORDS = "negative prompt, pair", "negative prompt, all six", "words alone"
LEARNED = (ADAPTIVE, FIXED, ALL_FIXED, NONE, IN_TEXT)
VARIANTS = (*LEARNED, PROMPTED, ALL_PROMPTED, WORDS)
MEANING = {
    ADAPTIVE: "begins with no negatives; what the answerer sees in the pictures is added",
    FIXED: "two members from the first step on, nobody is asked",
    ALL_FIXED: "all six named members from the first step on",
    NONE: "the category alone",
    IN_TEXT: "the same as adaptive, but compared is the text encoder's feature and not what the "
    "prior imagines; the paper's CLIP-ConceptLab",
    PROMPTED: "nothing is learned; the base model draws the category with the pair as its negative",
    ALL_PROMPTED: "the same with all six names in the negative prompt",
    WORDS: "nothing is learned; the base model draws the category's own words",
}
MEASURES = (
    Measure(
        "positive", "positive", "cosine of the pictures with the category, in the prior's space"
    ),
    Measure("distance", "distance", "positive minus the cosine with the nearest of the six named "
            "members"),
    Measure("novelty", "novelty", "1 - overlap of the outline with the nearest of the six "
            "silhouettes, by geometry alone"),
    Measure("new", "new", "share of pictures that show an object whose outline overlaps less than "
            "0.8 with each of the six"),
    Measure("seen", "an object", "share of pictures in which the oracle finds an object at all"),
    Measure("named", "named", "share of pictures whose object the oracle calls by one of the six "
            "names", False),
)  # fmt: skip
NEW = 0.8  # overlap below which an outline counts as new; rendered named shapes have 0.86 or more
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
Novelty is measured by area of overlap: nothing was trained for it, and it does not answer
questions. *Positive* and *distance* are measured in the very space that all handles but those in
text space learn in, as in the paper, where it is CLIP's. *Named* comes from the network that
answers the questions of the adaptive variant, so for that variant it is no independent judge.
TinyWorld is 64 px wide and knows six shapes; its prior and image encoder have 0.2 million weights
together. The figures show how this implementation behaves there. They do not repeat the paper's
study with Kandinsky 2.1 and people's judgement."""


def config_of(
    task: InventionTask,
    budget: InventionBudget,
    seed: int,
    variant: str,
    clamps: tuple[float, float],
    members: tuple[str, ...],
) -> ConceptLabConfig:
    """The settings of a cell in which something is learned."""
    negatives = {
        ADAPTIVE: NegativesConfig(every=budget.look_every),
        FIXED: NegativesConfig(start=task.pair, every=0),
        ALL_FIXED: NegativesConfig(start=members, every=0),
        NONE: NegativesConfig(every=0),
        IN_TEXT: NegativesConfig(every=budget.look_every),
    }
    config = ConceptLabConfig(
        positives=(task.category,),
        negatives=negatives[variant],
        steps=budget.steps,
        learning_rate=budget.learning_rate,
        positive_ceiling=clamps[0],
        negative_floor=clamps[1],
        positive_weight=budget.positive_weight,
        templates=SENTENCES,
        gallery=(SENTENCES[0],),
        seed=seed,
    )
    if variant == IN_TEXT:
        config = text_space_config(config)
    return replace(
        config,
        sampling=replace(config.sampling, steps=budget.prior_steps, guidance=budget.guidance),
    )


class InventionExperiment(Experiment):
    """Cells are (category, seed, variant)."""

    variants = rows = VARIANTS
    whole, measures, expectations, notes, digits = ADAPTIVE, MEASURES, EXPECTATIONS, MEANING, 3

    def __init__(
        self,
        world: World,
        host: Host,
        laboratory: ConceptLabBackend,
        budget: InventionBudget,
        folder: Path,
        seeds: int,
    ) -> None:
        super().__init__(folder, seeds)
        self.world, self.host, self.laboratory, self.budget = world, host, laboratory, budget
        self.tasks = {task.category: task for task in world.inventions}
        self.things = tuple(self.tasks)

    def key(self, cell: Cell) -> str:
        if cell.variant not in LEARNED:
            return repr([self._negatives(cell)])
        return repr(self.config(cell))

    def config(self, cell: Cell) -> ConceptLabConfig:
        clamps = self.laboratory.defaults.clamps
        assert clamps is not None
        task = self.tasks[cell.thing]
        members = self.world.members
        return config_of(task, self.budget, cell.seed, cell.variant, clamps, tuple(members))

    def _negatives(self, cell: Cell) -> list[str]:
        """What a negative prompt names."""
        if cell.variant == ALL_PROMPTED:
            return list(self.world.members)
        return list(self.tasks[cell.thing].pair) if cell.variant == PROMPTED else []

    def make(self, cell: Cell) -> tuple[dict[str, Tensor], dict[str, str]]:
        """Pictures [n, H, W, 3] as bytes, and the negatives at the end."""
        host, budget, world, laboratory = self.host, self.budget, self.world, self.laboratory
        handles, left, words = {}, self._negatives(cell), self.tasks[cell.thing].category
        negative = ", ".join(left)
        if cell.variant in LEARNED:
            made = invent(
                ClipSpace(host) if cell.variant == IN_TEXT else laboratory.space,
                HANDLE,
                self.config(cell),
                image_generator=HostImageGenerator(
                    host, steps=budget.sampling_steps, cfg=world.cfg, size=world.size
                ),
                questions=laboratory.questions,
            )
            handles, left, words = made.concept.handles, list(made.negatives), f"<{HANDLE}>"
        with torch.no_grad():
            prompt = host.encode_prompt(SENTENCES[0].format(concept=words), handles)
            noise = seeded_noise(host, 1000 + cell.seed, budget.pictures, world.size)
            latent = sample_ddim(
                host, [prompt], host.encode_prompt(negative), noise,
                steps=budget.sampling_steps, cfg=world.cfg,
            )  # fmt: skip
            pictures = as_bytes(host.decode_latent(latent))
        return {"pictures": pictures}, {"negatives": ", ".join(left)}

    def judge(self, cell: Cell, kept: Mapping[str, Tensor]) -> dict[str, Found]:
        """Every measure of every picture; novelty of those that show an object."""
        space, ruler, members = self.laboratory.space, self.world.ruler(), self.world.members
        images = as_floats(kept["pictures"])
        seen = space.look_at(images)
        category, *known = space.meanings(
            [SENTENCES[0].format(concept=word) for word in (cell.thing, *members)]
        )
        positive = seen @ category
        nearest = (seen @ torch.stack(known).T).max(dim=1).values
        found = [objects[0] for objects in map(ruler.find, images) if objects]
        outlines = [nearest_silhouette(one.mask) for one in found]
        overlaps = [o.overlap for o in outlines] + [1.0] * (len(images) - len(found))
        names = [one.shape for one in found] + [""] * (len(images) - len(found))
        return {
            cell.variant: {
                "positive": positive.tolist(),
                "distance": (positive - nearest).tolist(),
                "novelty": [o.novelty for o in outlines],
                "new": [float(overlap < NEW) for overlap in overlaps],
                "seen": [float(bool(name)) for name in names],
                "named": [float(name in members) for name in names],
            }
        }

    def about(self) -> list[str]:
        budget = self.budget
        return [
            f"{len(self.things)} categories ({', '.join(self.things)}), {self.seeds} seeds. "
            f"{budget.steps} steps at {budget.learning_rate:g}, lambda {budget.positive_weight:g}, "
            f"{budget.prior_steps} steps of the prior at guidance {budget.guidance:g}, a look "
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
                blank = torch.ones(*self.world.size, 3)
                images.append(blank if kept is None else as_floats(kept["pictures"][0]))
                captions.append(variant if thing == self.things[0] else thing)
        caption = (
            "The first picture of seed 0: a row for each category, a column for each variant, in "
            "the order of the table"
        )
        return sample_strip(images, captions, n_columns=len(VARIANTS)), 1, caption


def run(options: Options) -> Result:
    """Invent, draw and judge every cell."""
    world, budget = load_world(options.world, "inventions"), budget_of(options, BUDGETS)
    host = world.open("cpu")
    laboratory = on_host(host, TINYWORLD, TINYWORLD)
    digest = laboratory.space.digest
    folder = folder_of(PAGE, digest, asdict(budget))
    seeds = 1 if options.quick else options.seeds
    experiment = InventionExperiment(world, host, laboratory, budget, folder, seeds)
    if options.quick:
        experiment.things = experiment.things[:1]
    return perform(experiment, options, PAGE, digest)


def arguments(parser: argparse.ArgumentParser) -> None:
    add_options(parser, seeds=5)
