"""Every setting of ConceptLab; the defaults are those of the official code."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import Enum

from ...errors import ConfigError
from ...training.common_settings import LARGEST_SEED, rate_setting, steps_setting
from ...training.recipe import LoopConfig
from ...training.setting import check_settings, setting
from ...vision.ports import PriorSampling
from .templates import CONCEPT, OBJECT_GALLERY, OBJECTS, STYLE_GALLERY, STYLES


class ConceptKind(str, Enum):
    """Kind of the new concept."""

    OBJECT = "object"
    STYLE = "style"


class Initialiser(str, Enum):
    """Initial vector of a handle if its initialiser word has several tokens."""

    MEAN = "mean"  # of all of them
    FIRST = "first"  # of them alone, as in the official code


# Where nothing is asked.
LOOKS = "Steps between rounds: each saves a gallery and a checkpoint. 0 disables rounds."
_STEPS_HELP = (
    "Training steps. Good results often appear at 250 to 500; too many drift away from the "
    "category."
)
_WORDS = ",\n"  # what stands between the words of a list
_OWN_VALUE = "Spaces other than CLIP's (TinyWorld, none) have their own default."


def _cosine(default: float, help: str) -> float:
    return setting(
        default, help=f"{help} {_OWN_VALUE}", minimum=-1.0, maximum=1.0, step=0.01, is_advanced=True
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class NegativesConfig:
    """Negatives of the concept, and the growth of the list.

    `start` and `locked` words apply from the first step; above `most` words, the oldest unlocked
    one is removed. Words in `forbidden` are never added.
    """

    start: tuple[str, ...] = setting(
        (),
        name="negatives",
        option="not",
        help="Members to avoid, separated by commas. Empty: the first one comes from the VQA "
        "model.",
        separators=_WORDS,
        is_multiline=True,
    )
    locked: tuple[str, ...] = setting(
        (),
        help="Negatives that never leave the list, regardless of most_negatives.",
        separators=_WORDS,
        is_advanced=True,
    )
    forbidden: tuple[str, ...] = setting(
        (),
        option="forbid",
        help="Words to ignore as answers, such as animal.",
        separators=_WORDS,
        is_advanced=True,
    )
    every: int = steps_setting(  # the first question comes before step 1
        250,
        "Steps between rounds: each saves a gallery and a checkpoint and, with a VQA model, asks a "
        "question. 0 disables rounds.",
        name="look_every",
        option="every",
    )
    question: str = setting(  # "" is the paper's, see `questions.question_for`
        "",
        help="Question about each picture. Empty uses the paper's: What kind of pet is in this "
        "photo?.",
        is_advanced=True,
    )
    gradual: bool = setting(
        False,
        help="On: starts with one of the negatives and adds one in each round, instead of asking. "
        "Off: uses all from the start.",
        is_advanced=True,
    )
    most: int = steps_setting(
        0,
        "Maximum number of negatives at a time; the oldest leaves first. 0 keeps all.",
        name="most_negatives",
        is_advanced=True,
    )
    keep_duplicates: bool = setting(
        False,
        help="On: adds every answer as it comes, as the official code does; repeats count more. "
        "Off: adds each word once, and never the category itself.",
        is_advanced=True,
    )
    early_stop: int = steps_setting(
        0,
        "Stops after this many rounds in a row without a new word. 0 continues to the last step.",
        is_advanced=True,
    )

    def __post_init__(self) -> None:
        check_settings(self)
        if self.gradual and not self.start:
            raise ConfigError("negatives", self.start, "a list of words where gradual is on")


@dataclass(frozen=True, kw_only=True, slots=True)
class LabConfig:
    """Settings shared by inventing, mixing and evolving."""

    steps: int = steps_setting(  # configs/new_pet.yaml
        2500,
        _STEPS_HELP,
        minimum=1,
    )
    learning_rate: float = rate_setting(  # AdamW, constant
        1e-4,
        "Learning rate of the name: 1e-4 for Kandinsky, 1e-2 for TinyWorld. High values make the "
        "name drift off.",
        option="rate",
    )
    seed: int = setting(
        0,
        help="The same seed and inputs give the same concept, bit for bit.",
        minimum=0,
        maximum=LARGEST_SEED,
        is_limit=False,
        is_advanced=True,
    )
    initialiser: Initialiser = setting(
        Initialiser.MEAN,
        help="How to start from a word of several tokens: from their mean, or from the first token "
        "alone as in the official code.",
        is_advanced=True,
    )
    sampling: PriorSampling = field(default_factory=PriorSampling)
    templates: tuple[str, ...] = setting(  # () are those of the kind
        (),
        option="template",
        help="Training sentences, one per line, with {concept} and optionally {a} for its article. "
        "Empty: the official ones.",
        is_multiline=True,
        is_advanced=True,
    )
    gallery: tuple[str, ...] = setting(  # () are those of the kind
        (),
        help="Prompts of the pictures, one per line, with {concept}. The VQA question concerns the "
        "first picture. Empty: the official ones.",
        is_multiline=True,
        is_advanced=True,
    )
    gallery_seed: int = setting(
        42,
        help="Seed of the noise of those pictures.",
        minimum=0,
        maximum=LARGEST_SEED,
        is_limit=False,
        is_advanced=True,
    )

    def __post_init__(self) -> None:
        check_settings(self)
        for name in ("templates", "gallery"):
            if odd := [text for text in getattr(self, name) if CONCEPT not in text]:
                raise ConfigError(name, odd[0], f"a text that contains {CONCEPT}")

    @property
    def sentences(self) -> tuple[str, ...]:
        """Templates that steps choose from."""
        return self.templates or OBJECTS

    @property
    def pictures(self) -> tuple[str, ...]:
        """Prompts of a gallery."""
        return self.gallery or OBJECT_GALLERY


@dataclass(frozen=True, kw_only=True, slots=True)
class ConceptLabConfig(LabConfig):
    """The recipe for a new member of a category, or a mix of several (positives only)."""

    positives: tuple[str, ...] = ("pet",)  # the category; several are mixed
    weights: tuple[float, ...] = ()  # of the positives; () is 1/n each
    kind: ConceptKind = setting(
        ConceptKind.OBJECT,
        name="object_or_style",
        option="kind",
        help="Object or style: selects the training sentences and the question. For styles set "
        "negative_floor to 0.15.",
    )
    negatives: NegativesConfig = field(default_factory=NegativesConfig)
    positive_ceiling: float = _cosine(  # train_config.py:59
        0.28,
        "Target similarity to the category. Higher is more typical. A word of a mix that is more "
        "similar stops pulling, whatever its weight; 1 disables this.",
    )
    negative_floor: float = _cosine(  # styles have 0.15 (new_art.yaml)
        0.20, "Target similarity to a negative. Lower is stranger."
    )
    positive_weight: float = setting(  # lambda
        1.0,
        option="weight",
        help="Weight of the category relative to the negatives. 0 lets the name leave the "
        "category; high values stay typical.",
        minimum=0.0,
        maximum=5.0,
        step=0.05,
        is_advanced=True,
    )
    initialiser_word: str = setting(  # "" is the first positive
        "",
        option="from",
        help="Word to start from. Empty: the category, or the first word of a mix.",
        is_advanced=True,
    )

    def __post_init__(self) -> None:
        LabConfig.__post_init__(self)
        _check_weights("weights", self.weights, len(self.positives))
        if not self.positives or not all(word.strip() for word in self.positives):
            raise ConfigError("positives", self.positives, "one word or more, such as pet")
        if self.kind is ConceptKind.STYLE and len(self.positives) > 1:
            raise ConfigError("positives", self.positives, "a single word where a style is sought")
        both = {word.casefold() for word in self.positives}
        named = (*self.negatives.start, *self.negatives.locked)
        if clash := [word for word in named if word.strip().casefold() in both]:
            raise ConfigError("negatives", clash[0], "different words from the positives")

    @property
    def sentences(self) -> tuple[str, ...]:
        """Templates that steps choose from."""
        return self.templates or (STYLES if self.kind is ConceptKind.STYLE else OBJECTS)

    @property
    def pictures(self) -> tuple[str, ...]:
        """Prompts of a gallery."""
        return self.gallery or (STYLE_GALLERY if self.kind is ConceptKind.STYLE else OBJECT_GALLERY)

    @property
    def first_word(self) -> str:
        """Initial word of the vector."""
        return self.initialiser_word.strip() or self.positives[0]


@dataclass(frozen=True, kw_only=True, slots=True)
class EvolutionConfig(LabConfig):
    """The recipe for a child of several parents, each given by pictures."""

    weights: tuple[float, ...] = ()  # of the parents; () is 1/n each
    steps: int = steps_setting(  # coach_evolution.py:40
        2000,
        _STEPS_HELP,
        minimum=1,
    )
    first_word: str = setting(
        "pet", option="of", help="Word to start from: the category of the parents."
    )
    gallery_every: int = steps_setting(250, LOOKS, name="look_every", option="every")

    def __post_init__(self) -> None:
        LabConfig.__post_init__(self)
        if not self.first_word.strip():
            raise ConfigError("first_word", self.first_word, "a word such as pet")


def _check_weights(name: str, weights: tuple[float, ...], count: int) -> None:
    if weights and (len(weights) != count or min(weights) < 0 or not sum(weights)):
        raise ConfigError(name, weights, f"{count} numbers, 0 or more, not all of them 0; or none")


def style_config(config: ConceptLabConfig) -> ConceptLabConfig:
    """The same run for a style, with the official floor of styles."""
    return replace(config, kind=ConceptKind.STYLE, negative_floor=0.15)


def check_parents(config: EvolutionConfig, count: int) -> None:
    """ConfigError when there are no parents, or another number of them than weights."""
    if count < 1:
        raise ConfigError("parents", count, "one parent or more, each with pictures")
    _check_weights("weights", config.weights, count)


def text_space_config(config: ConceptLabConfig) -> ConceptLabConfig:
    """The same run for a space without a prior, where clamps of image embeddings do not apply."""
    return replace(config, positive_ceiling=1.0, negative_floor=-1.0)


# Plain AdamW without clipping, as the official code (train_config.py:25-37).
OFFICIAL_LOOP = LoopConfig(max_grad_norm=0.0)
