"""A small world in which quality is measured: what there is to learn, and a ruler that judges.

An edition is one file beside this one: it fills a `World` and registers it in `EDITIONS`. Subjects
take everything that differs between editions from here: the base model, scenes, unseen concepts,
ruler, presets, and which of them are learned.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from conceptloom.host.ports import Host

EDITIONS = {"first": "worlds.first", "second": "worlds.second"}


class Scene(Protocol):
    """A rendered picture [H, W, 3] with a mask [H, W] of each of its things."""

    @property
    def image(self) -> NDArray[np.uint8]: ...
    @property
    def masks(self) -> NDArray[np.float32]: ...


@dataclass(frozen=True)
class SceneTask:
    """A scene to learn at once, and where its objects are drawn afterwards."""

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


@dataclass(frozen=True)
class DetailTask:
    """An ornament on one object, and another object that is to carry it."""

    ornament: str
    source: str  # as prompts call it
    source_background: str
    target: str
    target_background: str
    part: str
    seed: int

    @property
    def name(self) -> str:
        return f"{self.ornament} {self.source} to {self.target}"


@dataclass(frozen=True)
class SubjectTask:
    """One unseen object, taught on one background."""

    word: str  # class word
    taught_on: str
    drawn_on: tuple[str, ...]


@dataclass(frozen=True)
class WeaveTask:
    """Concepts to weave into a template of plain objects.

    Attributes:
        place: the background as prompts say it.
    """

    concepts: tuple[str, ...]
    background: str
    place: str

    @property
    def name(self) -> str:
        return f"{' '.join(self.concepts)} {self.background}"


@dataclass(frozen=True)
class InventionTask:
    """A category, and the pair of members that a user would think of."""

    category: str
    pair: tuple[str, str]


class Ruler(Protocol):
    """Judges pictures [H, W, 3] by the world's truth; no method has learned from it."""

    def find(self, image: Any) -> Sequence[Any]: ...
    def describe(self, image: Any, mask: Any) -> Any: ...
    def reference(self, image: Any, mask: Any) -> Tensor: ...
    def identity(self, image: Any, references: Mapping[str, Tensor], name: str) -> Any: ...
    def leaked(
        self, image: Any, references: Mapping[str, Tensor], expected: Sequence[str]
    ) -> Any: ...
    def background(self, image: Any) -> str: ...


@dataclass(frozen=True, kw_only=True)
class World:
    """One edition.

    Attributes:
        side_px: of its pictures.
        open: the base model, on a device.
        ruler: loads the ruler, once.
        likeness: cosine of what the ruler found with a reference.
        colour_and_class: of what the ruler found.
        judge: judges pictures of a scene's concepts: (scene, handles) -> judge with `look`.
        scene: renders unseen objects: (objects, seed, background).
        ornamented: renders an object with an ornament: (object, ornament, seed, background, part).
        template: renders plain objects for a weave: (task, seed).
        concepts: every unseen object; those that are not taught distract.
        backgrounds: name -> as prompts say it.
        words: unseen object -> a plain word that comes near, from which learning starts.
        template_words: unseen object -> the plain object that stands in a template for it.
        background_words: background -> a word to learn it as a concept from.
        presets: method -> the settings that the base model learns with.
        cfg: guidance of its pictures.
        members: every named member of its categories.
        other: colour and shape of a plain object beside a concept.
    """

    name: str
    side_px: int
    open: Callable[[str], Host]
    ruler: Callable[[], Ruler]
    likeness: Callable[[Any, Tensor], float]
    colour_and_class: Callable[[Any], tuple[str, str]]
    judge: Callable[[Scene, Sequence[str]], Any]
    scene: Callable[[Sequence[str], int, str], Scene]
    ornamented: Callable[[str, str, int, str, str], Scene]
    template: Callable[[WeaveTask, int], Scene]
    article: Callable[[str], str]
    concepts: Sequence[str]
    backgrounds: Mapping[str, str]
    words: Mapping[str, str]
    template_words: Mapping[str, str]
    background_words: Mapping[str, str]
    presets: Mapping[str, Any]
    cfg: float
    members: Sequence[str]
    other: tuple[str, str]
    scenes: Sequence[SceneTask]
    details: Sequence[DetailTask]
    subjects: Mapping[str, SubjectTask]
    pairs: Sequence[tuple[str, str]]
    weaves: Sequence[WeaveTask]
    inventions: Sequence[InventionTask]

    @property
    def size(self) -> tuple[int, int]:
        return self.side_px, self.side_px

    def sentence(self, task: WeaveTask) -> str:
        """A template's caption: all of its plain objects, and the place."""
        parts = [self.article(self.template_words[concept]) for concept in task.concepts]
        return f"a photo of {', '.join(parts[:-1])} and {parts[-1]} {task.place}"


def load_world(name: str, needs: str = "") -> World:
    """The edition of this name.

    Args:
        needs: field with tasks that there have to be.

    Raises:
        SystemExit: there are none.
    """
    world = import_module(EDITIONS[name]).WORLD
    if needs and not getattr(world, needs):
        raise SystemExit(f"The {name} world has no {needs} to measure yet; take --world first.")
    return world


def handle_of(name: str) -> str:
    """The handle of an unseen object."""
    return f"my-{name}"
