"""What is invented, in which ways, and what is measured."""

from __future__ import annotations

from dataclasses import dataclass, replace

from quality_tables import Measure

from conceptloom.methods.conceptlab import ConceptLabConfig, NegativesConfig, text_space_config
from conceptloom.tinyworld.prior import SENTENCES
from conceptloom.tinyworld.shapes import SHAPES

NAMED = tuple(SHAPES)  # every member that has a name


@dataclass(frozen=True, slots=True)
class InventionTask:
    """A category, and the pair of members that a user would think of."""

    category: str
    pair: tuple[str, str]


WISHES = (
    InventionTask("object", ("circle", "square")),
    InventionTask("toy", ("star", "ring")),
    InventionTask("red object", ("square", "triangle")),
    InventionTask("striped thing", ("circle", "cross")),
    InventionTask("blue toy", ("ring", "square")),
)


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


FULL = InventionBudget(300, 50, 1e-2, 1.0, 5, 4.0, 16, 25)
QUICK = InventionBudget(60, 15, 1e-2, 1.0, 3, 4.0, 8, 16)

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

Key = tuple[str, int, str]  # category, seed, variant
Cells = dict[Key, dict[str, list[float]]]


def config_of(
    wish: InventionTask,
    budget: InventionBudget,
    seed: int,
    variant: str,
    clamps: tuple[float, float],
) -> ConceptLabConfig:
    """The settings of a cell in which something is learned."""
    negatives = {
        ADAPTIVE: NegativesConfig(every=budget.look_every),
        FIXED: NegativesConfig(start=wish.pair, every=0),
        ALL_FIXED: NegativesConfig(start=NAMED, every=0),
        NONE: NegativesConfig(every=0),
        IN_TEXT: NegativesConfig(every=budget.look_every),
    }
    config = ConceptLabConfig(
        positives=(wish.category,),
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
