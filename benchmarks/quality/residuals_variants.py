"""What is varied in learning residuals and drawing with them, and what the paper says."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from harness.statistics import Expectation

from conceptloom.attention.lag_config import LagConfig, Unconditional
from conceptloom.methods.break_a_scene import BreakASceneConfig, ClassImages
from conceptloom.methods.break_a_scene.spec import ON_TINYWORLD as SCENES
from conceptloom.methods.concept_weaver import BankConfig
from conceptloom.methods.concept_weaver.spec import ON_TINYWORLD as BANK
from conceptloom.methods.personalized_residuals import PersonalizedResidualsConfig
from conceptloom.tinyworld.presets import CFG
from conceptloom.training.adapters import Scope, Start
from conceptloom.training.phases import TokenPhase, WeightPhase

from .lag import BASE, LAG
from .subjects import Settings, SubjectBudget, config_of
from .tasks import SUBJECTS


@dataclass(frozen=True, slots=True)
class Way:
    """How a learned concept is drawn."""

    lag: LagConfig | None = field(default_factory=LagConfig)  # None: in the weights, everywhere
    class_word: str | None = None  # read beside V* for the mask; None: the one of training


EVERYWHERE = "everywhere"  # as a plain LoRA does
DEFAULT_WAY, MERGED = {LAG: Way()}, {EVERYWHERE: Way(lag=None)}
QUANTILES = {quantile: f"quantile {quantile:g}" for quantile in (0.25, 0.75)}
V_ALONE = "mask of V* alone"
DRAWING: dict[str, Way] = {
    EVERYWHERE: Way(lag=None),
    **{name: Way(LagConfig(quantile=quantile)) for quantile, name in QUANTILES.items()},
    "soft mask": Way(LagConfig(softness=0.5)),
    "smoothed attention": Way(LagConfig(smoothing=1.0)),
    V_ALONE: Way(class_word=""),
    "negative rows: nowhere": Way(LagConfig(unconditional=Unconditional.BASE)),
    "negative rows: everywhere": Way(LagConfig(unconditional=Unconditional.EVERYWHERE)),
}

Change = Callable[[PersonalizedResidualsConfig, str], Settings]  # default; class word


@dataclass(frozen=True, slots=True)
class Variant:
    """How a concept is learned otherwise, and in which ways it is drawn then."""

    about: str
    change: Change = lambda config, word: config
    words: Mapping[str, str] = field(default_factory=dict[str, str])  # right -> taught class word
    ways: Mapping[str, Way] = field(default_factory=lambda: DEFAULT_WAY)

    def word(self, right: str) -> str:
        return self.words.get(right, right)


def at_ratio(ratio: float) -> Change:
    return lambda config, word: replace(config, ratio=ratio)


def as_custom_diffusion(config: PersonalizedResidualsConfig, word: str) -> BankConfig:
    """K and V of cross-attention and V*, in as many steps, on the pictures as they are."""
    return replace(
        BANK,
        token_phase=TokenPhase(steps=0),
        weight_phase=replace(BANK.weight_phase, steps=config.steps),
        smallest=1.0,
        views=1,
        batch_size=config.batch_size,
        seed=config.seed,
    )


def in_the_other_loop(*, prior: bool) -> Change:
    """Residuals as Break-A-Scene's loop learns them, which takes pictures of the class.

    Half the batch: where there are class pictures, as many of them come with it.
    """

    def change(config: PersonalizedResidualsConfig, word: str) -> BreakASceneConfig:
        return replace(
            SCENES,
            token_phase=TokenPhase(steps=0),
            weight_phase=WeightPhase(
                steps=config.steps,
                learning_rate=config.learning_rate,
                scope=Scope.PROJ_OUT,
                rank=OTHER_RANK,
            ),
            attention_weight=0.0,
            prior_weight=float(prior),
            class_images=replace(FEW, prompt=f"a photo of a {word}", cfg=CFG),
            prompt_prefix="a photo of a ",
            flip=0.0,
            batch_size=max(config.batch_size // 2, 1),
            seed=config.seed,
        )

    return change


# Class images are drawn again for every concept that takes them.
FEW = ClassImages(draw=12, steps=12)
OTHER_RANK = 32  # that loop takes no ratio
RATIOS = {ratio: f"ratio {ratio:g}" for ratio in (0.01, 0.025, 0.05, 0.1, 0.2)}
DEFAULT, FROZEN, BOTH_RANDOM = "default", "V* frozen", "both factors random"
KV, LOOP, PRIOR = "K and V", "without class pictures", "with class pictures"
ANOTHER, VAGUE, NO_WORD = "another class word", "a vague class word", "no class word"
NEIGHBOURS = {
    "mug": "vase", "teapot": "mug", "fish": "bird", "cat": "fish", "house": "castle",
    "mushroom": "tree", "robot": "ball", "ball": "robot", "boat": "car", "umbrella": "mushroom",
}  # fmt: skip
_IN_LOOP = (
    f"residuals of rank {OTHER_RANK} by Break-A-Scene's loop, half the batch, V* starts from the "
    "class word and stands in the prompt without it; "
)
# In the order of the work: where it is cut short, the later ones have fewer seeds.
VARIANTS: dict[str, Variant] = {
    DEFAULT: Variant(
        "what `train-residuals` does on TinyWorld: ratio 0.5, V* starts from `object` and learns, "
        "the right class word; drawn with LAG at its defaults",
        ways=DEFAULT_WAY | DRAWING,
    ),
    RATIOS[0.05]: Variant("the paper's", at_ratio(0.05)),
    RATIOS[0.2]: Variant("", at_ratio(0.2)),
    RATIOS[0.01]: Variant("", at_ratio(0.01)),
    NO_WORD: Variant(
        "neither in teaching nor in drawing; the mask is V*'s alone",
        words=dict.fromkeys(NEIGHBOURS, ""),
    ),
    LOOP: Variant(
        _IN_LOOP + "no prior loss",
        in_the_other_loop(prior=False),
        ways=DEFAULT_WAY | MERGED,
    ),
    PRIOR: Variant(
        _IN_LOOP + 'a prior loss on pictures of "a photo of a <class word>" by the base model',
        in_the_other_loop(prior=True),
        ways=DEFAULT_WAY | MERGED,
    ),
    ANOTHER: Variant(
        ", ".join(f"{other} for {right}" for right, other in NEIGHBOURS.items()), words=NEIGHBOURS
    ),
    VAGUE: Variant("object", words=dict.fromkeys(NEIGHBOURS, "object")),
    KV: Variant(
        "Custom Diffusion's scope and loss (the preset of Concept Weaver's bank): whole weights of "
        "K and V and V* at that preset's one rate, V* starts from the class word; drawn without "
        "LAG, which works on residuals",
        as_custom_diffusion,
        ways=MERGED,
    ),
    FROZEN: Variant(
        "V* stays at `object`", lambda config, word: replace(config, train_handle=False)
    ),
    BOTH_RANDOM: Variant(
        "as the paper has it; else one factor begins at zero",
        lambda config, word: replace(config, start=Start.BOTH_RANDOM),
    ),
    RATIOS[0.1]: Variant("", at_ratio(0.1)),
    RATIOS[0.025]: Variant("", at_ratio(0.025)),
}


def row_of(variant: str, way: str) -> str:
    """What a concept and a way of drawing are called on the page."""
    if way == LAG:
        return variant
    return way if variant == DEFAULT else f"{variant}, {way}"


KV_EVERYWHERE = row_of(KV, EVERYWHERE)
LOOP_EVERYWHERE, PRIOR_EVERYWHERE = row_of(LOOP, EVERYWHERE), row_of(PRIOR, EVERYWHERE)
# Heading -> the row that gains are those of, and the rows that it is compared with.
GROUPS: dict[str, tuple[str, tuple[str, ...]]] = {
    "Rank": (DEFAULT, tuple(RATIOS.values())),
    "What learns, and how it begins": (DEFAULT, (FROZEN, BOTH_RANDOM)),
    "Pictures of the class": (LOOP, (PRIOR,)),
    "Pictures of the class, drawn without LAG": (LOOP_EVERYWHERE, (PRIOR_EVERYWHERE,)),
    "Custom Diffusion's scope, drawn without LAG": (EVERYWHERE, (KV_EVERYWHERE,)),
    "Class word": (DEFAULT, (ANOTHER, VAGUE, NO_WORD)),
    "Drawing with the concepts of the default": (DEFAULT, (BASE, *DRAWING)),
}
MARGIN = 0.05  # by how much what "is enough" may be worse, of likeness or of pictures
EXPECTATIONS = (
    Expectation(
        "A ratio of 0.05 gets more of the object than 0.01", RATIOS[0.05], RATIOS[0.01], "likeness"
    ),
    Expectation("0.05 is enough: 0.1 gets no more", RATIOS[0.05], RATIOS[0.1], "likeness", MARGIN),
    Expectation("0.05 is enough: 0.2 gets no more", RATIOS[0.05], RATIOS[0.2], "likeness", MARGIN),
    Expectation(
        "0.05 is enough: TinyWorld's own 0.5 gets no more",
        RATIOS[0.05],
        DEFAULT,
        "likeness",
        MARGIN,
    ),
    Expectation("Pictures of the class bring no likeness", LOOP, PRIOR, "likeness", MARGIN),
    Expectation(
        "Pictures of the class keep no backgrounds that LAG loses",
        LOOP,
        PRIOR,
        "background",
        MARGIN,
    ),
    Expectation(
        "Pictures of the class keep no backgrounds that a plain LoRA loses",
        LOOP_EVERYWHERE,
        PRIOR_EVERYWHERE,
        "background",
        MARGIN,
    ),
    Expectation(
        "Output projections get more of the object than K and V",
        EVERYWHERE,
        KV_EVERYWHERE,
        "likeness",
    ),
    Expectation(
        "Output projections with LAG keep the background better",
        DEFAULT,
        KV_EVERYWHERE,
        "background",
    ),
    Expectation("A class word helps", DEFAULT, NO_WORD, "likeness"),
    Expectation("A class word keeps the background", DEFAULT, NO_WORD, "background"),
    Expectation("The right class word is better than another", DEFAULT, ANOTHER, "likeness"),
    Expectation("The right class word is better than a vague one", DEFAULT, VAGUE, "likeness"),
    Expectation("LAG costs no likeness", DEFAULT, EVERYWHERE, "likeness", MARGIN),
    Expectation("LAG keeps the background", DEFAULT, EVERYWHERE, "background"),
    Expectation(
        "The median is as good as a lower cut", DEFAULT, QUANTILES[0.25], "likeness", MARGIN
    ),
    Expectation(
        "The median is as good as a higher cut", DEFAULT, QUANTILES[0.75], "likeness", MARGIN
    ),
    Expectation("The class word makes the mask better", DEFAULT, V_ALONE, "likeness"),
)


def settings_of(budget: SubjectBudget, seed: int, variant: str, name: str) -> tuple[Settings, str]:
    """What an object is learned with, and its class word."""
    how = VARIANTS[variant]
    word = how.word(SUBJECTS[name].word)
    return how.change(config_of(budget, seed), word), word
