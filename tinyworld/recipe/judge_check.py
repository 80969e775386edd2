"""What the judge reaches on true pictures that it never saw, and the similarities it decides by."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from torch import nn

from ..judge.judge import Calibration, Judge
from ..judge.lineup import TARGET, Lineup, lineup
from ..judge.scores import identity, layout, likeness
from ..judge.words import BACKGROUND_NAMES, seen_words
from ..members import KINDS, held_out, training_member
from ..painters.kinds import Member
from ..scenes import Scene, member_scene
from .judge_scenes import soften

log = logging.getLogger("conceptloom")

SCENES = 240
PICTURES = 4  # of each member that is looked for in a line-up
CHECKED = 2  # held-out members of each class


def true_scenes(count: int, seed: int) -> list[Scene]:
    """Scenes of one or two members: half held-out ones, half new ones."""
    rng = np.random.default_rng((43, seed))
    kinds, made = list(KINDS), []
    for index in range(count):
        names = [kinds[index % len(kinds)], str(rng.choice(kinds))][: 1 + index % 2]
        members = [
            held_out(name)[rng.integers(4)] if rng.random() < 0.5 else training_member(name, rng)
            for name in names
        ]
        background = BACKGROUND_NAMES[index // 2 % len(BACKGROUND_NAMES)]
        made.append(member_scene(members, 50_000 + 977 * seed + index, background))
    return made


def word_figures(
    judge: Judge, scenes: Sequence[Scene], images: Sequence[NDArray[np.uint8]]
) -> dict[str, float]:
    """Shares of right words and backgrounds, 0..1; an object that is not found is wrong."""
    right: dict[str, list[bool]] = defaultdict(list)
    for scene, image in zip(scenes, images, strict=True):
        right["background"].append(judge.background(image) == scene.background)
        found = judge.find(image)
        right["count"].append(len(found) == len(scene.things))
        placed = layout(found, list(scene.masks))
        for one, thing, parts in zip(placed.objects, scene.things, scene.parts, strict=True):
            right["found"].append(one is not None)
            for head, word in seen_words(thing.what, parts).items():
                name = "part colours" if head.endswith(" colour") else head
                right[name].append(one is not None and one.words.get(head) == word)
            for option, word in thing.member.options.items() if thing.member else ():
                if option in KINDS[thing.member.kind].options:  # type: ignore[union-attr]
                    right["forms"].append(one is not None and one.forms.get(option) == word)
    return {name: float(np.mean(values)) for name, values in right.items()}


def shown(member: Member, seed: int) -> tuple[Scene, int]:
    """A picture of a member, every second one beside a member of another class."""
    rng = np.random.default_rng((44, seed))
    members = [member]
    if seed % 2:
        others = [kind for kind in KINDS if kind != member.kind]
        members.append(training_member(str(rng.choice(others)), rng, (member.colour,)))
    background = BACKGROUND_NAMES[rng.integers(len(BACKGROUND_NAMES))]
    return member_scene(members, 90_000 + seed, background), len(members)


class Comparison:
    """Line-ups of held-out members, with pictures of each member."""

    def __init__(
        self, judge: Judge, per_kind: int = CHECKED, pictures: int = PICTURES,
        vae: nn.Module | None = None,
    ) -> None:  # fmt: skip
        self.judge = judge
        self.tests: list[tuple[Lineup, list[NDArray[np.uint8]]]] = []
        for number, kind in enumerate(KINDS):
            for which in range(per_kind):
                member = held_out(kind)[(number + which) % 4]
                seed = 1000 * number + 100 * which
                images = np.stack([shown(member, seed + i)[0].image for i in range(pictures)])
                if vae is not None:
                    soften(images, vae, (45, seed))
                self.tests.append((lineup(judge, member, seed), list(images)))

    def similarities(self) -> tuple[list[float], list[float]]:
        """Cosines of the object with its own member, and with the most alike near distractor."""
        own, near = [], []
        for line, images in self.tests:
            for image in images:
                seen = identity(self.judge, self.judge.find(image), line)
                own.append(seen.similarity)
                if seen.found is not None:
                    names = [n for n in line.references if n.startswith("near")]
                    near += [likeness(seen.found, line.references[n]) for n in names]
        return own, near

    def figures(self) -> dict[str, float]:
        """Share of pictures whose member is told from the others of its class, 0..1."""
        sorts = {
            "instance of 16": (),
            "instance among near": ("far", "held"),
            "instance among far": ("near",),
        }
        right: dict[str, list[bool]] = defaultdict(list)
        for line, images in self.tests:
            for image in images:
                objects = self.judge.find(image)
                for name, left_out in sorts.items():
                    seen = identity(self.judge, objects, line.without(*left_out))
                    right[name].append(seen.nearest == TARGET)
                strict = identity(self.judge, objects, line)
                right["instance of 16, strict"].append(strict.right)
        return {name: float(np.mean(values)) for name, values in right.items()}


def calibrate(judge: Judge) -> Judge:
    """The judge with its thresholds set and its figures measured."""
    comparison = Comparison(judge)
    own, near = comparison.similarities()
    same = equal_error(own, near)
    nearest = [
        float((judge.bank @ found.embedding).max())
        for kind in KINDS
        for one in held_out(kind)
        for found in judge.find(member_scene([one], 77).image)[:1]
    ]
    known = float(np.quantile(nearest, 0.05))
    judge.calibration = Calibration(same=same, known=known, figures={})
    scenes = true_scenes(SCENES, 0)
    figures = word_figures(judge, scenes, [s.image for s in scenes]) | comparison.figures()
    figures["own member below same"] = float(np.mean(np.array(own) < same))
    figures["near distractor above same"] = float(np.mean(np.array(near) >= same))
    figures = {name: round(value, 4) for name, value in figures.items()}
    for name, value in figures.items():
        log.info("%s: %.1f %%", name, 100 * value)
    judge.calibration = Calibration(same=round(same, 4), known=round(known, 4), figures=figures)
    return judge


def equal_error(own: Sequence[float], other: Sequence[float]) -> float:
    """The similarity at which as many own ones fall below as others reach it, by share."""
    a, b = np.sort(own), np.sort(other)
    candidates = np.unique(np.concatenate([a, b]))
    below = np.searchsorted(a, candidates) / len(a)
    above = 1 - np.searchsorted(b, candidates) / len(b)
    return float(candidates[np.argmin(np.maximum(below, above))])
