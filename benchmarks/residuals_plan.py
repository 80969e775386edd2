"""What the benchmarks of residuals teach, and what that of LAG draws, and how much of each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from conceptloom.attention.lag_config import LagConfig
from conceptloom.methods.personalized_residuals import PersonalizedResidualsConfig
from conceptloom.methods.personalized_residuals.spec import ON_TINYWORLD

Names = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class SubjectLesson:
    """One object of the world outside the vocabulary."""

    word: str  # class word
    taught_on: str  # background of all its pictures
    drawn_on: Names


LESSONS = {
    "twotone": SubjectLesson("circle", "sky", ("black", "beach")),
    "split": SubjectLesson("square", "beach", ("gray", "grass")),
    "bullseye": SubjectLesson("circle", "grass", ("black", "beach")),
    "pinwheel": SubjectLesson("square", "bricks", ("white", "sky")),
    "flower": SubjectLesson("star", "gray", ("beach", "night")),
}
PAIRS = (("twotone", "split"), ("bullseye", "pinwheel"), ("twotone", "flower"))
OTHER = ("blue", "triangle")  # the plain object beside a concept
LAG, PLAIN, BASE = "LAG", "plain LoRA", "base model"
VARIANTS = {
    LAG: LagConfig(),
    PLAIN: LagConfig(localised=False),
    BASE: LagConfig(strength=0.0),
}


@dataclass(frozen=True, slots=True)
class ResidualsBudget:
    """How much work a cell is; a cell is a concept or a pair, and a seed."""

    steps: int  # of training
    batch_size: int
    images: int  # to learn from
    pictures: int  # for each prompt, background and variant
    sampling_steps: int
    seeds: int
    concepts: int
    pairs: int


FULL = ResidualsBudget(
    ON_TINYWORLD.steps, ON_TINYWORLD.batch_size, 3, 2, 15, 3, len(LESSONS), len(PAIRS)
)
QUICK = replace(FULL, steps=60, pictures=1, sampling_steps=10, seeds=1, concepts=2, pairs=1)


def cells(budget: ResidualsBudget) -> Iterator[tuple[Names, int]]:
    """Seed by seed, so that a run cut short has all concepts of some seeds."""
    for seed in range(budget.seeds):
        yield from (((name,), seed) for name in list(LESSONS)[: budget.concepts])
        yield from ((pair, seed) for pair in PAIRS[: budget.pairs])


def config_of(budget: ResidualsBudget, seed: int) -> PersonalizedResidualsConfig:
    """The settings that the bundled model learns residuals with."""
    return replace(ON_TINYWORLD, steps=budget.steps, batch_size=budget.batch_size, seed=seed)


def handle_of(name: str) -> str:
    return f"my-{name}"


def prompts_of(names: Names) -> dict[str, str]:
    """Kind of a prompt -> its objects."""
    told = [f"a <{handle_of(name)}> {LESSONS[name].word}" for name in names]
    if len(names) > 1:
        return {"together": " and ".join(told)}
    return {"alone": told[0], "beside": f"{told[0]} and a {' '.join(OTHER)}"}
