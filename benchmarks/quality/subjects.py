"""Held-out members, learned once for all benchmarks, and the judge's verdicts."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace

import torch
from harness.experiment import Found
from harness.results import RUNS
from harness.statistics import Measure
from harness.store import NO_PREVIEW, kept_concept
from torch import Tensor

from conceptloom.cli.demo.judge import as_image
from conceptloom.concepts.concept import Concept
from conceptloom.concepts.fingerprints import content_key
from conceptloom.host.ports import Host
from conceptloom.methods.break_a_scene import BreakASceneConfig, learn_scene
from conceptloom.methods.concept_weaver import BankConfig, learn_for_bank
from conceptloom.methods.personalized_residuals import (
    PersonalizedResidualsConfig,
    learn_residuals,
)
from conceptloom.methods.personalized_residuals.spec import ON_TINYWORLD
from conceptloom.scenes.scene import make_scene
from conceptloom.tinyworld.concepts import concept_scene
from conceptloom.tinyworld.judge.judge import load_judge
from conceptloom.tinyworld.judge.lineup import LINEUP
from conceptloom.tinyworld.judge.named import identity_of

from .tasks import PAIRS, SUBJECTS
from .world import found_in, handle_of

STORE = RUNS / "subject_concepts"
Settings = PersonalizedResidualsConfig | BankConfig | BreakASceneConfig


@dataclass(frozen=True, slots=True)
class SubjectBudget:
    """How much work a cell is."""

    steps: int  # of training
    batch_size: int
    images: int  # to learn from
    pictures: int  # for each prompt and background
    sampling_steps: int
    things: int  # concepts
    pairs: int


def budgets() -> dict[str, SubjectBudget]:
    """The steps are the preset's in every real budget: fewer learn something else."""
    preset = ON_TINYWORLD
    full = SubjectBudget(preset.steps, preset.batch_size, 3, 2, 15, len(SUBJECTS), len(PAIRS))
    return {
        "full": full,
        "short": replace(full, batch_size=2, sampling_steps=10),
        "quick": replace(
            full, steps=1, batch_size=1, images=1, pictures=1, sampling_steps=1, things=1, pairs=1
        ),
    }


def config_of(budget: SubjectBudget, seed: int) -> PersonalizedResidualsConfig:
    """The settings that TinyWorld learns residuals with."""
    return replace(ON_TINYWORLD, steps=budget.steps, batch_size=budget.batch_size, seed=seed)


def learned(
    host: Host,
    model: str,
    name: str,
    images: int,
    config: Settings,
    word: str | None = None,
) -> Concept:
    """A concept from its file, or taught now.

    Args:
        model: digest of the base model.
        images: how many to learn from; the seed of the settings says which ones.
        word: class word; None: the task's own.
    """
    word = SUBJECTS[name].word if word is None else word
    pictures = pictures_of(name, config.seed, images)
    settings = [name, word, type(config).__name__, asdict(config)]
    key = content_key(model, settings, {"pictures": pictures})
    path = STORE / f"{name}-{config.seed}-{key[:12]}.concept.safetensors"
    return kept_concept(path, lambda: taught(host, pictures, handle_of(name), word, config))


def pictures_of(name: str, seed: int, count: int) -> list[Tensor]:
    """[H, W, 3] each, 0..1: the object in other places, on one background."""
    background = SUBJECTS[name].taught_on
    places = range(10 * seed, 10 * seed + count)
    return [as_image(concept_scene([name], place, background).image) for place in places]


def taught(host: Host, pictures: list[Tensor], handle: str, word: str, config: Settings) -> Concept:
    """By the method that the settings belong to; whole pictures count for all of them."""
    if isinstance(config, PersonalizedResidualsConfig):
        quick = replace(NO_PREVIEW, prompts=())
        return learn_residuals(host, pictures, handle, word, config, previews=quick).concept
    everything = [torch.ones_like(picture[..., 0]) for picture in pictures]
    scene = make_scene(pictures, {handle: everything}, {handle: word})
    learn = learn_for_bank if isinstance(config, BankConfig) else learn_scene
    return learn(host, scene, config, previews=NO_PREVIEW).concept


# What is said of a picture that asks for one held-out member on a background.
MEASURES = (
    Measure(
        "likeness",
        "likeness",
        "cosine of the judge's description with the taught member, best object found",
    ),
    Measure(
        "identity",
        "identity",
        f"share of pictures in which the judge takes it for the taught member, of {LINEUP} of its "
        "class",
    ),
    Measure("background", "background", "share of pictures on the requested background"),
    Measure(
        "changed",
        "changed",
        "mean change of pixels (0..255) against the base model's picture of the same noise, "
        "where neither shows an object",
        False,
    ),
)


def add_verdict(image: Tensor, plain: Tensor, name: str, place: str, into: Found) -> None:
    """Add what a picture [H, W, 3], 0..255, shows of a held-out member.

    Args:
        plain: the base model's picture of the same prompt and noise.
        place: the requested background.
    """
    objects = found_in(image)
    verdict = identity_of(objects, name)
    into["likeness"].append(verdict.similarity)
    into["identity"].append(float(verdict.right))
    into["background"].append(float(load_judge().background(image) == place))
    masks = [found.mask for found in (*objects, *found_in(plain))]
    empty = ~torch.stack([*masks, torch.zeros(image.shape[:2], dtype=torch.bool)]).any(dim=0)
    if bool(empty.any()):  # else the objects of both cover everything
        change = (image.float() - plain.float()).abs().mean(dim=-1)
        into["changed"].append(float(change[empty].mean()))
