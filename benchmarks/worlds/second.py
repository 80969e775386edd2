"""The second edition of TinyWorld: classes with endless members at 128 px, and its judge.

An unseen object is a held-out member, and is told from fifteen others of its own class. The base
model is the one in training until it is bundled. Details and inventions are not measured in it yet.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor

from conceptloom.cli.demo.judge import Verdict
from conceptloom.host.diffusers import DiffusersHost
from conceptloom.host.ports import Host
from conceptloom.methods.break_a_scene.spec import ON_TINYWORLD as BREAK_A_SCENE
from conceptloom.methods.concept_weaver.spec import ON_TINYWORLD as BANK
from conceptloom.methods.personalized_residuals.spec import ON_TINYWORLD as RESIDUALS
from conceptloom.tinyworld.captions import Word
from conceptloom.tinyworld.concepts import CONCEPTS, concept
from conceptloom.tinyworld.judge import scores
from conceptloom.tinyworld.judge.judge import Found, load_judge
from conceptloom.tinyworld.judge.lineup import TARGET, Lineup, lineup
from conceptloom.tinyworld.judge.scores import Identity, likeness
from conceptloom.tinyworld.members import KINDS
from conceptloom.tinyworld.painters.kinds import Member
from conceptloom.tinyworld.presets import CFG
from conceptloom.tinyworld.recipe.gate_figures import true_members
from conceptloom.tinyworld.scenes import SIZE, Placed, Scene, member_scene, render
from conceptloom.tinyworld.shapes import BACKGROUNDS
from conceptloom.tinyworld.world import article
from conceptloom.training.adapters import Scope

from .world import SceneTask, SubjectTask, WeaveTask, World

# Places of 2 and 3 objects in a template: (x, y, radius) in the picture's unit.
SPOTS = {
    2: ((0.28, 0.42, 0.22), (0.73, 0.6, 0.22)),
    3: ((0.24, 0.3, 0.17), (0.76, 0.33, 0.17), (0.48, 0.77, 0.17)),
}
# What stands in a template for a concept: a member of its class in a colour that is not its own.
TEMPLATE_WORDS = {
    "mug1": "red mug",
    "fish2": "blue fish",
    "mushroom3": "purple mushroom",
    "house1": "green house",
    "boat1": "red boat",
    "umbrella2": "blue umbrella",
}


class JudgeRuler:
    """The second edition's judge with a ruler's questions; names are those of held-out members."""

    def __init__(self) -> None:
        self.judge = load_judge()

    def find(self, image: Any) -> list[Found]:
        """Objects of a picture [H, W, 3], the largest first, with masks [H, W]."""
        height, width = image.shape[:2]
        return [replace(one, mask=_at(one.mask, height, width)) for one in self.judge.find(image)]

    def describe(self, image: Any, mask: Any) -> Found:
        return self.judge.describe(image, mask)

    def reference(self, image: Any, mask: Any) -> Tensor:
        return self.judge.reference(image, mask)

    def background(self, image: Any) -> str:
        return self.judge.background(image)

    def identity(self, image: Any, references: Mapping[str, Tensor], name: str) -> Identity:
        """Against the line-up of a member's own class, whatever else the references hold."""
        return named_identity(self, self.judge.find(image), name, lineup_of(name))

    def leaked(
        self, image: Any, references: Mapping[str, Tensor], expected: Collection[str]
    ) -> list[str]:
        return scores.leaked(self.judge, self.judge.find(image), references, expected)


@cache
def _ruler() -> JudgeRuler:
    return JudgeRuler()


@cache
def lineup_of(name: str) -> Lineup:
    """A held-out member and fifteen others of its class."""
    return lineup(_ruler().judge, concept(name))


def named_identity(
    ruler: JudgeRuler, objects: Sequence[Found], name: str, others: Lineup
) -> Identity:
    """Identity in which the member goes by a name instead of by its number in the line-up."""
    one = scores.identity(ruler.judge, objects, others)
    return replace(one, nearest=name) if one.nearest == TARGET else one


class SceneJudge:
    """Judges pictures of a scene's members by their handles."""

    def __init__(self, truth: Scene, handles: Sequence[str]) -> None:
        self._ruler = _ruler()
        members = [placed.member for placed in truth.things]
        self._lineups = {
            handle: lineup_of(_name_of(member))
            for handle, member in zip(handles, members, strict=True)
            if member is not None
        }

    def look(self, image: Tensor, expected: Sequence[str]) -> Verdict:
        """Verdict on a picture [H, W, 3], 0..1."""
        judge = self._ruler.judge
        objects = judge.find(image)
        own = {handle: others.references[TARGET] for handle, others in self._lineups.items()}
        return Verdict(
            {
                handle: named_identity(self._ruler, objects, handle, self._lineups[handle])
                for handle in expected
            },
            scores.leaked(judge, objects, own, expected),
            judge.background(image),
        )


def _name_of(member: Member) -> str:
    return next(name for name in CONCEPTS if concept(name) == member)


def _at(mask: Tensor, height: int, width: int) -> Tensor:
    large = torch.nn.functional.interpolate(mask[None, None].float(), (height, width))
    return large[0, 0] > 0.5


def _scene(objects: Sequence[str], seed: int, background: str = "white") -> Scene:
    return member_scene([concept(name) for name in objects], seed, background)


def _template(task: WeaveTask, seed: int) -> Scene:
    """Members of the same classes in other colours, moved a little by the seed."""
    rng = np.random.default_rng(seed)
    things = [
        Placed(
            what=_member_of(TEMPLATE_WORDS[name], rng),
            x=x + float(rng.uniform(-0.02, 0.02)),
            y=y + float(rng.uniform(-0.02, 0.02)),
            radius=radius,
        )
        for name, (x, y, radius) in zip(task.concepts, SPOTS[len(task.concepts)], strict=True)
    ]
    words = tuple(Word(text=word) for word in WORLD.sentence(task).split())
    return render(things, task.background, rng, words=words)


def _member_of(words: str, rng: np.random.Generator) -> Member:
    """A training member, "red mug" -> one whose colour is called red."""
    colour, kind = words.split()
    return true_members([(colour, kind)], rng)[0]


def _no_details(*_: Any) -> NoReturn:
    raise NotImplementedError("the second edition has no details to measure yet")


def _open(device: str = "cpu") -> Host:
    if torch.device(device).type != "cpu":
        raise ValueError("the second edition is measured on a CPU until it is bundled")
    return DiffusersHost.tinyworld()


# Whole weights: at 300 steps twice as many members are recognised as with low-rank changes.
SCENES = replace(
    BREAK_A_SCENE,
    token_phase=replace(BREAK_A_SCENE.token_phase, steps=60),
    weight_phase=replace(
        BREAK_A_SCENE.weight_phase, steps=300, scope=Scope.FULL, learning_rate=5e-4
    ),
    class_images=replace(BREAK_A_SCENE.class_images, draw=0),
    resolution_px=SIZE,
)

WORLD = World(
    name="second",
    side_px=SIZE,
    open=_open,
    ruler=_ruler,
    likeness=likeness,
    colour_and_class=lambda one: (one.colour, one.kind),
    judge=SceneJudge,
    scene=_scene,
    ornamented=_no_details,
    template=_template,
    article=article,
    concepts=tuple(CONCEPTS),
    backgrounds=BACKGROUNDS,
    words=CONCEPTS,
    template_words=TEMPLATE_WORDS,
    background_words={name: name for name in ("white", "grass", "beach", "sky", "gray")}
    | {"bricks": "brick"},
    presets={
        "break_a_scene": SCENES,
        "residuals": replace(RESIDUALS, resolution_px=SIZE),
        "bank": replace(BANK, resolution_px=SIZE),
    },
    cfg=CFG,
    members=tuple(KINDS),
    other=("blue", "ball"),
    scenes=(
        SceneTask(("mug1", "fish2"), 3, "white", ("grass", "beach")),
        SceneTask(("mushroom3", "house1"), 4, "white", ("gray", "sky")),
        SceneTask(("robot1", "ball2"), 5, "white", ("grass", "bricks")),
        SceneTask(("boat1", "umbrella2"), 6, "white", ("beach", "gray")),
        SceneTask(("cat1", "teapot2"), 7, "white", ("sky", "grass")),
        SceneTask(("flower1", "bird2"), 8, "white", ("gray", "beach")),
        SceneTask(("tree2", "car1"), 9, "white", ("sky", "bricks")),
        SceneTask(("vase1", "castle2"), 10, "white", ("grass", "gray")),
        SceneTask(("mug3", "cat2"), 11, "white", ("beach", "sky")),
        SceneTask(("house3", "fish4"), 12, "white", ("gray", "grass")),
    ),
    details=(),
    subjects={
        "mug2": SubjectTask("mug", "sky", ("white", "beach")),
        "fish1": SubjectTask("fish", "beach", ("gray", "grass")),
        "house2": SubjectTask("house", "grass", ("white", "beach")),
        "mushroom1": SubjectTask("mushroom", "bricks", ("white", "sky")),
        "robot2": SubjectTask("robot", "gray", ("beach", "grass")),
        "boat2": SubjectTask("boat", "white", ("sky", "beach")),
        "umbrella1": SubjectTask("umbrella", "sky", ("gray", "grass")),
        "cat3": SubjectTask("cat", "grass", ("white", "bricks")),
        "ball1": SubjectTask("ball", "beach", ("gray", "sky")),
        "teapot1": SubjectTask("teapot", "gray", ("grass", "beach")),
    },
    pairs=(("mug2", "fish1"), ("house2", "boat2"), ("mushroom1", "ball1")),
    weaves=(
        WeaveTask(("mug1", "fish2"), "grass", "on the grass"),
        WeaveTask(("mushroom3", "house1"), "beach", "at the beach"),
        WeaveTask(("boat1", "umbrella2"), "gray", "on a gray background"),
        WeaveTask(("mug1", "house1", "fish2"), "white", "on a white background"),
    ),
    inventions=(),
)
