"""Every setting of ConceptLab; the defaults are those of the official code."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import Enum

from ...checks import require_positive, require_whole
from ...errors import ConfigError
from ...training.recipe import LoopConfig
from ...vision.ports import PriorSampling
from .templates import CONCEPT, OBJECT_GALLERY, OBJECTS, STYLE_GALLERY, STYLES


class Kind(str, Enum):
    """What is invented."""

    OBJECT = "object"
    STYLE = "style"


class Initialiser(str, Enum):
    """What a handle starts from when its initialiser word has several tokens."""

    MEAN = "mean"  # of all of them
    FIRST = "first"  # of them alone, as in the official code


@dataclass(frozen=True, kw_only=True, slots=True)
class NegativesConfig:
    """What the concept must not become, and how the list grows.

    `start` and `locked` words are there from the first step; when `most` is exceeded the oldest
    that is not locked leaves. A word of `forbidden` is never added, whatever the answer was.
    """

    start: tuple[str, ...] = ()
    locked: tuple[str, ...] = ()
    forbidden: tuple[str, ...] = ()
    every: int = 250  # steps between questions, the first before step 1; 0 never asks
    question: str = ""  # "" is the paper's, see `questions.question_for`
    gradual: bool = False  # start with one of `start`, by chance, and add one every `every` steps
    most: int = 0  # how many negatives at a time; 0 is no limit
    keep_duplicates: bool = False  # True as the official code: every answer is added as it comes
    early_stop: int = 0  # questions in a row that bring nothing new, after which it ends; 0 never

    def __post_init__(self) -> None:
        for name in ("every", "most", "early_stop"):
            require_whole(name, getattr(self, name), least=0)
        if self.gradual and not self.start:
            raise ConfigError("negatives", self.start, "a list of words where gradual is on")


@dataclass(frozen=True, kw_only=True, slots=True)
class ConceptLabConfig:
    """The recipe for a new member of a category, or a mix of several (positives only)."""

    positives: tuple[str, ...] = ("pet",)  # the category; several are mixed
    weights: tuple[float, ...] = ()  # of the positives; () is 1/n each
    negatives: NegativesConfig = field(default_factory=NegativesConfig)
    kind: Kind = Kind.OBJECT
    steps: int = 2500  # optimizer steps (configs/new_pet.yaml)
    learning_rate: float = 1e-4  # AdamW, constant
    positive_ceiling: float = 0.28  # cosine that is near enough (train_config.py:59)
    negative_floor: float = 0.20  # cosine that is far enough; styles have 0.15 (new_art.yaml)
    positive_weight: float = 1.0  # lambda
    sampling: PriorSampling = field(default_factory=PriorSampling)
    initialiser_word: str = ""  # what the vector starts as; "" is the first positive
    initialiser: Initialiser = Initialiser.MEAN  # official: FIRST token of the word
    templates: tuple[str, ...] = ()  # () are those of the kind
    gallery: tuple[str, ...] = ()  # prompts of the pictures; the first is asked about
    gallery_seed: int = 42  # of their noise
    seed: int = 0

    def __post_init__(self) -> None:
        _check_run(self)
        require_positive("positive_weight", self.positive_weight, zero=True)
        for name in ("positive_ceiling", "negative_floor"):
            if not -1 <= getattr(self, name) <= 1:
                raise ConfigError(name, getattr(self, name), "a cosine, between -1 and 1")
        _check_weights("weights", self.weights, len(self.positives))
        if not self.positives or not all(word.strip() for word in self.positives):
            raise ConfigError("positives", self.positives, "one word or more, such as pet")
        if self.kind is Kind.STYLE and len(self.positives) > 1:
            raise ConfigError("positives", self.positives, "a single word where a style is sought")
        both = {word.casefold() for word in self.positives}
        named = (*self.negatives.start, *self.negatives.locked)
        if clash := [word for word in named if word.strip().casefold() in both]:
            raise ConfigError("negatives", clash[0], "different words from the positives")

    @property
    def sentences(self) -> tuple[str, ...]:
        """Templates that steps choose from."""
        return self.templates or (STYLES if self.kind is Kind.STYLE else OBJECTS)

    @property
    def pictures(self) -> tuple[str, ...]:
        """Prompts of a gallery."""
        return self.gallery or (STYLE_GALLERY if self.kind is Kind.STYLE else OBJECT_GALLERY)

    @property
    def first_word(self) -> str:
        """What the vector starts as."""
        return self.initialiser_word.strip() or self.positives[0]


@dataclass(frozen=True, kw_only=True, slots=True)
class EvolutionConfig:
    """The recipe for a child of several parents, each given by pictures."""

    first_word: str = "pet"  # what the vector starts as
    weights: tuple[float, ...] = ()  # of the parents; () is 1/n each
    steps: int = 2000  # optimizer steps (coach_evolution.py:40)
    learning_rate: float = 1e-4
    sampling: PriorSampling = field(default_factory=PriorSampling)
    initialiser: Initialiser = Initialiser.MEAN
    templates: tuple[str, ...] = OBJECTS
    gallery: tuple[str, ...] = OBJECT_GALLERY
    gallery_every: int = 250  # steps between galleries; 0 draws none while learning
    gallery_seed: int = 42
    seed: int = 0

    def __post_init__(self) -> None:
        _check_run(self)
        require_whole("gallery_every", self.gallery_every, least=0)
        if not self.first_word.strip():
            raise ConfigError("first_word", self.first_word, "a word such as pet")


def _check_run(config: ConceptLabConfig | EvolutionConfig) -> None:
    require_whole("steps", config.steps, least=1)
    require_positive("learning_rate", config.learning_rate)
    for name in ("templates", "gallery"):
        if odd := [text for text in getattr(config, name) if CONCEPT not in text]:
            raise ConfigError(name, odd[0], f"a text that contains {CONCEPT}")


def _check_weights(name: str, weights: tuple[float, ...], count: int) -> None:
    if weights and (len(weights) != count or min(weights) < 0 or not sum(weights)):
        raise ConfigError(name, weights, f"{count} numbers, 0 or more, not all of them 0; or none")


def style_config(config: ConceptLabConfig) -> ConceptLabConfig:
    """The same run for a style, with the official floor of styles."""
    return replace(config, kind=Kind.STYLE, negative_floor=0.15)


def check_parents(config: EvolutionConfig, count: int) -> None:
    """ConfigError when there are no parents, or another number of them than weights."""
    if count < 1:
        raise ConfigError("parents", count, "one parent or more, each with pictures")
    _check_weights("weights", config.weights, count)


def text_space_config(config: ConceptLabConfig) -> ConceptLabConfig:
    """The same run for a space without a prior, where clamps of picture embeddings mean nothing."""
    return replace(config, positive_ceiling=1.0, negative_floor=-1.0)


# Plain AdamW without clipping, as the official code (train_config.py:25-37).
OFFICIAL_LOOP = LoopConfig(clip=0.0)
