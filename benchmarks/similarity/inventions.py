"""What ConceptLab invents by the paper's protocol, in which ways, with which networks.

ConceptLab (arXiv 2308.02669): 5 categories, 3 pairs of negatives and 5 seeds, 32 pictures of "A
photo of a S*"; CLIP between them and the category, and by how much that is above the nearest of the
pair. The paper's pairs and its figures are not in the texts that we could read: the pairs here are
ours, ordinary members that a user would think of first.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from harness.statistics import Measure
from torch import Tensor

from conceptloom.host.ports import HandleVectors
from conceptloom.methods.conceptlab import ConceptLabConfig, NegativesConfig, text_space_config
from conceptloom.methods.conceptlab.templates import OBJECT_GALLERY
from conceptloom.vision.generators import DecoderImageGenerator
from conceptloom.vision.ports import PriorSampling, VQAModel
from conceptloom.vision.prior import DiffusionPrior
from conceptloom.vision.prior_files import decoder_generator

PROMPT = "A photo of a {}"


@dataclass(frozen=True, slots=True)
class Category:
    """What a new member is invented of.

    Attributes:
        word: the positive constraint; its last word is where the handle begins.
        pairs: negatives, two at a time.
        members: twenty ordinary ones, the pairs' among them.
    """

    word: str
    pairs: tuple[tuple[str, str], ...]
    members: tuple[str, ...]


def _category(word: str, pairs: str, others: str) -> Category:
    """`pairs` as "cat dog, hamster parrot"; words of two parts have an underscore."""
    found = tuple(pair.split() for pair in pairs.replace(", ", ",").split(","))
    named = tuple((a.replace("_", " "), b.replace("_", " ")) for a, b in found)
    members = [word for pair in named for word in pair]
    members += [other.replace("_", " ") for other in others.split()]
    return Category(word, named, tuple(members))


CATEGORIES = (
    _category(
        "pet",
        "cat dog, hamster parrot, rabbit goldfish",
        "guinea_pig turtle lizard snake ferret canary mouse chinchilla gecko frog hedgehog iguana "
        "pony tarantula",
    ),
    _category(
        "plant",
        "cactus fern, rose sunflower, palm_tree bonsai",
        "orchid tulip bamboo ivy moss lavender aloe_vera dandelion daisy lily oak_tree pine_tree "
        "mushroom basil",
    ),
    _category(
        "fruit",
        "apple banana, orange strawberry, pineapple grape",
        "pear peach plum cherry mango kiwi lemon watermelon melon papaya coconut fig pomegranate "
        "raspberry",
    ),
    _category(
        "piece of furniture",
        "chair table, sofa bed, bookshelf wardrobe",
        "desk stool bench cabinet dresser nightstand armchair ottoman cradle hammock bunk_bed "
        "rocking_chair coffee_table shelf",
    ),
    _category(
        "musical instrument",
        "guitar piano, violin trumpet, drum flute",
        "saxophone harp cello accordion banjo clarinet trombone tuba ukulele harmonica xylophone "
        "bagpipes tambourine organ",
    ),
)
NOUNS = tuple(member for category in CATEGORIES for member in category.members)  # a hundred
GIVEN, ADAPTIVE, TEXT = "given pair", "given pair and answers", "in text space"
PROMPTED, WORDS = "negative prompt", "words alone"
LEARNED = (GIVEN, ADAPTIVE, TEXT)
VARIANTS = (*LEARNED, PROMPTED, WORDS)
SAMPLING = ConceptLabConfig().sampling  # of every variant's pictures
NOTES = {
    GIVEN: "ConceptLab with the pair as its negatives, nobody is asked; the paper's protocol",
    ADAPTIVE: "the same, and what BLIP-2 sees in the pictures is added; an answer that comes again "
    "is left out, where the official code adds it once more",
    TEXT: "after the paper's CLIP-ConceptLab: the text encoder's feature in place of the prior's, "
    "the pair as negatives; both clamps are off, for they are for picture embeddings",
    PROMPTED: "nothing is learned; prior and decoder draw the category with the pair as negative "
    "prompt, after the paper's Kandinsky baseline; the prior as in learning, "
    f"{SAMPLING.steps} steps at guidance {SAMPLING.guidance:g}, and one embedding of the pair for "
    "all pictures of a cell",
    WORDS: "nothing is learned; the category's own words",
}
MEASURES = (
    Measure("positive", "positive", 'CLIP cosine of the pictures with "A photo of a" category'),
    Measure("distance", "distance", "positive minus the cosine with the nearer of the pair"),
    Measure(
        "nearest",
        "nearest noun",
        "cosine with the nearest of 100 nouns, 20 ordinary members of each of the five categories: "
        "lower is newer",
        False,
    ),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class InventionSimilarityBudget:
    """How much a cell is."""

    steps: int = 2500
    look_every: int = 250
    pictures: int = 32
    decoder_steps: int = 50
    side: int = 512  # px
    pairs: int = 3
    seeds: int = 5


FULL = InventionSimilarityBudget()
QUICK = InventionSimilarityBudget(
    steps=2, look_every=1, pictures=2, decoder_steps=2, side=64, pairs=1, seeds=1
)


@dataclass(frozen=True, slots=True)
class Cell:
    """One set of pictures."""

    category: Category
    pair: tuple[str, str]
    seed: int
    variant: str

    @property
    def wish(self) -> str:
        """What was wanted, as tables group by it."""
        return f"{self.category.word}: {', '.join(self.pair)}"

    @property
    def file(self) -> str:
        """Name of its files; words alone know no pair."""
        pair = () if self.variant == WORDS else self.pair
        parts = (self.category.word, *pair, str(self.seed), self.variant)
        return "-".join(parts).replace(" ", "-")


def cells_of(
    categories: tuple[Category, ...], variants: tuple[str, ...], budget: InventionSimilarityBudget
) -> list[Cell]:
    """Whole rounds first: after any number of them the variants can be compared."""
    return [
        Cell(category, pair, seed, variant)
        for seed in range(budget.seeds)
        for category in categories
        for pair in category.pairs[: budget.pairs]
        for variant in variants
    ]


def config_of(cell: Cell, budget: InventionSimilarityBudget) -> ConceptLabConfig:
    """The settings of a cell in which something is learned: the official ones."""
    every = budget.look_every if cell.variant == ADAPTIVE else 0
    config = ConceptLabConfig(
        positives=(cell.category.word,),
        negatives=NegativesConfig(start=cell.pair, every=every),
        initialiser_word=cell.category.word.split()[-1],
        steps=budget.steps,
        gallery=OBJECT_GALLERY[:1],  # the one that is asked about
        seed=cell.seed,
    )
    return text_space_config(config) if cell.variant == TEXT else config


class _Around:
    """A prior of which one thing is another."""

    def __init__(self, prior: DiffusionPrior) -> None:
        self._prior = prior

    def __getattr__(self, name: str) -> Any:
        return getattr(self._prior, name)


class TextSpace(_Around):
    """Compares what the prior's text encoder makes of a prompt; the prior does not imagine.

    Source: `optimize_in_text_space`, coach.py:279-280. Constraints stay those of the prior.
    """

    def imagine(
        self, text: str, handles: HandleVectors, generator: torch.Generator, sampling: PriorSampling
    ) -> Tensor:
        return self._prior.text.encode(text, handles).pooled[0].float()


class Unwanted(_Around):
    """A prior whose "nothing" is what a negative prompt shows, as in diffusers' pipelines."""

    def __init__(self, prior: DiffusionPrior, text: str, seed: int) -> None:
        super().__init__(prior)
        self._text, self._seed = text, seed

    @torch.no_grad()
    def blank(self) -> Tensor:
        generator, alone = torch.Generator().manual_seed(self._seed), PriorSampling(guidance=1.0)
        return self._prior.imagine(self._text, {}, generator, alone)[None]


@dataclass(frozen=True, slots=True)
class Networks:
    """All that invents and draws.

    Attributes:
        decoder: diffusers' pipeline behind the prior.
        questions: None leaves the adaptive variant out.
    """

    prior: DiffusionPrior
    decoder: Any
    questions: VQAModel | None = None

    def image_generator(
        self, budget: InventionSimilarityBudget, negative: str = "", seed: int = 0
    ) -> DecoderImageGenerator:
        """Draws what the prior imagines, away from a negative prompt."""
        prior = Unwanted(self.prior, negative, seed) if negative else self.prior
        return decoder_generator(
            cast(DiffusionPrior, prior),
            self.decoder,
            self.prior.device,
            sampling=replace(SAMPLING, negative=negative),
            steps=budget.decoder_steps,
            cfg=7.5,
            size=(budget.side, budget.side),
        )
