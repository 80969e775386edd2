"""What is learned, how long, with what switched off, and what is measured."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from quality_tables import Measure

from conceptloom.methods.break_a_scene import BreakASceneConfig
from conceptloom.methods.break_a_scene.spec import ON_TINYWORLD
from conceptloom.tinyworld.concepts import concept_scene
from conceptloom.tinyworld.world import Scene
from conceptloom.training.adapters import Scope


@dataclass(frozen=True, slots=True)
class SceneLesson:
    """A scene to learn, and where its objects are drawn afterwards."""

    objects: tuple[str, ...]
    seed: int
    background: str
    elsewhere: tuple[str, str]

    @property
    def name(self) -> str:
        return " ".join(self.objects)

    @property
    def handles(self) -> list[str]:
        return [f"my-{name}" for name in self.objects]

    @property
    def truth(self) -> Scene:
        return concept_scene(list(self.objects), self.seed, self.background)


LESSONS = (
    SceneLesson(("bullseye", "split"), 3, "grass", ("black", "beach")),
    SceneLesson(("twotone", "pinwheel"), 4, "beach", ("gray", "sky")),
    SceneLesson(("face", "split", "swirl"), 5, "bricks", ("white", "grass")),
    SceneLesson(("moon", "mug"), 6, "sky", ("black", "bricks")),
    SceneLesson(("twotone", "flower", "pinwheel"), 7, "gray", ("beach", "night")),
)
# What a user would start from: a word that the model knows and that comes near.
WORDS = {
    **dict.fromkeys(("bullseye", "twotone", "swirl", "moon", "face"), "circle"),
    **dict.fromkeys(("split", "pinwheel", "mug"), "square"),
    "flower": "star",
}
# The surroundings are a concept too (paper Sec. 4.2): nothing else tells where an object ends, for
# the masked loss sees none of what is outside.
SURROUNDINGS = "my-surroundings"
WORD_OF_BACKGROUND = {name: name for name in ("grass", "beach", "sky", "gray")} | {
    "bricks": "brick"
}


@dataclass(frozen=True, slots=True)
class SceneBudget:
    """How much work a cell is."""

    token_steps: int
    weight_steps: int
    scope: str
    weight_rate: float
    batch_size: int
    class_images: int
    surroundings: bool  # learn them too, as one more concept
    pictures: int  # for each prompt
    sampling_steps: int


FULL = SceneBudget(60, 250, Scope.FULL.value, 6e-4, 4, 0, True, 4, 25)
QUICK = SceneBudget(40, 200, Scope.FULL.value, 6e-4, 3, 0, True, 1, 16)

Change = Callable[[BreakASceneConfig], BreakASceneConfig]
Cells = dict[tuple[str, int, str], dict[str, list[float]]]  # (scene, seed, variant) -> measures


def without_phase_1(config: BreakASceneConfig) -> BreakASceneConfig:
    """All steps in phase 2, so that every variant makes as many."""
    steps = config.token_phase.steps + config.weight_phase.steps
    return replace(
        config,
        token_phase=replace(config.token_phase, steps=0),
        weight_phase=replace(config.weight_phase, steps=steps),
    )


VARIANTS: dict[str, Change] = {
    "whole method": lambda config: config,
    "without phase 1": without_phase_1,
    "without masked loss": lambda config: replace(config, masked_loss=False),
    "without attention loss": lambda config: replace(config, attention_weight=0.0),
    "without union sampling": lambda config: replace(config, union_sampling=False),
}
WHOLE = "whole method"


MEASURES = (
    Measure("alone", "identity alone", "share of pictures of one word that show its object"),
    Measure("together", "identity together", "the same, per word, where all words are asked for"),
    Measure(
        "nearest", "nearest", "share of words whose object is the likest of 16, however unlike"
    ),
    Measure("likeness", "likeness", "cosine of the oracle's description with the taught object"),
    Measure("iou", "attention IoU", "of the word's map with the exact mask, unseen arrangement"),
    Measure(
        "auc", "attention AUC", "chance that a point inside is looked at more than one outside"
    ),
    Measure("leak", "leakage", "share of pictures with a learned object too much", False),
    Measure("background", "background", "share of pictures on the background that was asked for"),
)
# What the paper's ablation says that each part is for (Sec. 5.2), in our measures.
SERVES = {
    "without phase 1": ("background",),
    "without masked loss": ("background",),
    "without attention loss": ("alone", "together", "nearest", "iou"),
    "without union sampling": ("together", "nearest"),
}


def config_of(budget: SceneBudget, seed: int, variant: str) -> BreakASceneConfig:
    """The settings of a cell."""
    base = ON_TINYWORLD
    whole = replace(
        base,
        token_phase=replace(base.token_phase, steps=budget.token_steps),
        weight_phase=replace(
            base.weight_phase,
            steps=budget.weight_steps,
            scope=Scope(budget.scope),
            learning_rate=budget.weight_rate,
        ),
        batch_size=budget.batch_size,
        prior_weight=base.prior_weight if budget.class_images else 0.0,
        class_images=replace(base.class_images, draw=budget.class_images),
        seed=seed,
    )
    return VARIANTS[variant](whole)
