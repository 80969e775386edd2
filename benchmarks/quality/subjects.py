"""Unseen objects of the world, learned once for all benchmarks, and the ruler's verdicts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property

import torch
from harness.experiment import Found
from harness.results import RUNS
from harness.statistics import Measure
from harness.store import NO_PREVIEW, kept_concept
from torch import Tensor
from worlds.world import World, handle_of

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
from conceptloom.scenes.scene import make_scene

STORE = RUNS / "subject_concepts"
REFERENCE_SEED = 7  # of the pictures that show what an object looks like
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


def budgets_of(world: World) -> dict[str, SubjectBudget]:
    """The steps are the world's own in every real budget: fewer learn something else."""
    preset = world.presets["residuals"]
    full = SubjectBudget(
        preset.steps, preset.batch_size, 3, 2, 15, len(world.subjects), len(world.pairs)
    )
    return {
        "full": full,
        "short": replace(full, batch_size=2, sampling_steps=10),
        "quick": replace(
            full, steps=1, batch_size=1, images=1, pictures=1, sampling_steps=1, things=1, pairs=1
        ),
    }


def config_of(world: World, budget: SubjectBudget, seed: int) -> PersonalizedResidualsConfig:
    """The settings that the world's model learns residuals with."""
    preset = world.presets["residuals"]
    return replace(preset, steps=budget.steps, batch_size=budget.batch_size, seed=seed)


def learned(
    world: World,
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
    word = world.subjects[name].word if word is None else word
    pictures = pictures_of(world, name, config.seed, images)
    settings = [world.name, name, word, type(config).__name__, asdict(config)]
    key = content_key(model, settings, {"pictures": pictures})
    path = STORE / f"{name}-{config.seed}-{key[:12]}.concept.safetensors"
    return kept_concept(path, lambda: taught(host, pictures, handle_of(name), word, config))


def pictures_of(world: World, name: str, seed: int, count: int) -> list[Tensor]:
    """[H, W, 3] each, 0..1: the object in other places, on one background."""
    background = world.subjects[name].taught_on
    places = range(10 * seed, 10 * seed + count)
    return [as_image(world.scene([name], place, background).image) for place in places]


def taught(host: Host, pictures: list[Tensor], handle: str, word: str, config: Settings) -> Concept:
    """By the method that the settings belong to; whole pictures count for all of them."""
    if isinstance(config, PersonalizedResidualsConfig):
        quick = replace(NO_PREVIEW, prompts=())
        return learn_residuals(host, pictures, handle, word, config, previews=quick).concept
    everything = [torch.ones_like(picture[..., 0]) for picture in pictures]
    scene = make_scene(pictures, {handle: everything}, {handle: word})
    learn = learn_for_bank if isinstance(config, BankConfig) else learn_scene
    return learn(host, scene, config, previews=NO_PREVIEW).concept


def measures_for(world: World) -> tuple[Measure, ...]:
    """What is said of a picture that asks for one unseen object on a background."""
    return (
        Measure(
            "likeness",
            "likeness",
            "cosine of the ruler's description with the taught object, best object found",
        ),
        Measure(
            "identity",
            "identity",
            "share of pictures in which the ruler takes it for the taught object, of "
            f"{len(world.concepts)} unseen ones",
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


class SubjectJudge:
    """Judges pictures [H, W, 3], 0..255, of unseen objects."""

    def __init__(self, world: World) -> None:
        self._world = world

    @cached_property
    def references(self) -> Mapping[str, Tensor]:
        """What every unseen object looks like; those that were not taught distract."""
        world, found = self._world, {}
        for name in world.concepts:
            scene = world.scene([name], REFERENCE_SEED, "white")
            found[name] = world.ruler().reference(scene.image, scene.masks[0])
        return found

    def add(self, image: Tensor, plain: Tensor, name: str, place: str, into: Found) -> None:
        """Add what one picture shows.

        Args:
            plain: the base model's picture of the same prompt and noise.
            place: the requested background.
        """
        ruler = self._world.ruler()
        verdict = ruler.identity(image, self.references, name)
        into["likeness"].append(verdict.similarity)
        into["identity"].append(float(verdict.right))
        into["background"].append(float(ruler.background(image) == place))
        change = self._background_change(image, plain)
        if change is not None:
            into["changed"].append(change)

    def _background_change(self, image: Tensor, plain: Tensor) -> float | None:
        """None where the objects of both cover everything."""
        ruler = self._world.ruler()
        objects = [found.mask for each in (image, plain) for found in ruler.find(each)]
        empty = ~torch.stack([*objects, torch.zeros(image.shape[:2], dtype=torch.bool)]).any(dim=0)
        change = (image.float() - plain.float()).abs().mean(dim=-1)
        return float(change[empty].mean()) if bool(empty.any()) else None
