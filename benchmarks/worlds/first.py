"""The first edition of TinyWorld: six shapes at 64 px, sixteen unseen objects, the oracle."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from conceptloom.cli.demo.judge import Judge
from conceptloom.cli.models import open_host
from conceptloom.host.ports import Host
from conceptloom.methods.break_a_scene.spec import ON_TINYWORLD as BREAK_A_SCENE
from conceptloom.methods.concept_weaver.spec import ON_TINYWORLD as BANK
from conceptloom.methods.personalized_residuals.spec import ON_TINYWORLD as RESIDUALS
from conceptloom.tinyworld.concepts import CONCEPTS, concept_scene, item
from conceptloom.tinyworld.oracle import likeness, load_oracle
from conceptloom.tinyworld.ornaments import ornament_scene
from conceptloom.tinyworld.presets import CFG
from conceptloom.tinyworld.shapes import BACKGROUNDS, SHAPES
from conceptloom.tinyworld.world import SIZE, Scene, article, render
from conceptloom.training.adapters import Scope

from .world import DetailTask, InventionTask, SceneTask, SubjectTask, WeaveTask, World

# What stands in a template for a concept. Its last word is what the concept is learned from.
TEMPLATE_WORDS = {
    "bullseye": "blue circle",
    "face": "orange circle",
    "split": "green square",
    "house": "yellow square",
}
# Places of 2, 3 and 4 objects: (x, y, radius) in the picture's unit.
SPOTS = {
    2: ((0.29, 0.42, 0.2), (0.72, 0.6, 0.2)),
    3: ((0.24, 0.3, 0.16), (0.75, 0.33, 0.16), (0.48, 0.75, 0.16)),
    4: ((0.25, 0.26, 0.15), (0.74, 0.25, 0.15), (0.26, 0.74, 0.15), (0.75, 0.75, 0.15)),
}


def _scene(objects: Sequence[str], seed: int, background: str = "white") -> Scene:
    return concept_scene(list(objects), seed, background)


def _ornamented(words: str, ornament: str, seed: int, background: str, part: str) -> Scene:
    return ornament_scene(words, ornament, seed, background, part=part)


def _template(task: WeaveTask, seed: int) -> Scene:
    """A rendered picture of plain objects, moved a little by the seed."""
    rng = np.random.default_rng(seed)
    spots = [
        (x + rng.uniform(-0.02, 0.02), y + rng.uniform(-0.02, 0.02), radius)
        for x, y, radius in SPOTS[len(task.concepts)]
    ]
    words = [TEMPLATE_WORDS[concept] for concept in task.concepts]
    items = [item(word, spot, rng) for word, spot in zip(words, spots, strict=True)]
    image, masks = render(items, task.background, rng)
    return Scene(
        image=image, masks=masks, caption=WORLD.sentence(task), items=tuple(items),
        background=task.background,
    )  # fmt: skip


def _open(device: str = "cpu") -> Host:
    return open_host(device=device)


# Every weight learns, as in the paper.
SCENES = replace(
    BREAK_A_SCENE,
    weight_phase=replace(
        BREAK_A_SCENE.weight_phase, steps=250, scope=Scope.FULL, learning_rate=6e-4
    ),
    class_images=replace(BREAK_A_SCENE.class_images, draw=0),
)

WORLD = World(
    name="first",
    side_px=SIZE,
    open=_open,
    ruler=load_oracle,
    likeness=likeness,
    colour_and_class=lambda one: (one.colour, one.shape),
    judge=Judge,
    scene=_scene,
    ornamented=_ornamented,
    template=_template,
    article=article,
    concepts=tuple(CONCEPTS),
    backgrounds=BACKGROUNDS,
    words={
        **dict.fromkeys(("bullseye", "twotone", "swirl", "moon", "face"), "circle"),
        **dict.fromkeys(("split", "pinwheel", "mug"), "square"),
        "flower": "star",
    },
    template_words=TEMPLATE_WORDS,
    background_words={name: name for name in ("grass", "beach", "sky", "gray")}
    | {"bricks": "brick"},
    presets={"break_a_scene": SCENES, "residuals": RESIDUALS, "bank": BANK},
    cfg=CFG,
    members=tuple(SHAPES),
    other=("blue", "triangle"),
    scenes=(
        SceneTask(("bullseye", "split"), 3, "grass", ("black", "beach")),
        SceneTask(("twotone", "pinwheel"), 4, "beach", ("gray", "sky")),
        SceneTask(("face", "split", "swirl"), 5, "bricks", ("white", "grass")),
        SceneTask(("moon", "mug"), 6, "sky", ("black", "bricks")),
        SceneTask(("twotone", "flower", "pinwheel"), 7, "gray", ("beach", "night")),
    ),
    details=(
        DetailTask("face", "purple square", "white", "green circle", "sky", "middle", 5),
        DetailTask("twotone", "blue circle", "beach", "orange square", "black", "bottom", 7),
        DetailTask("split", "blue circle", "white", "yellow circle", "grass", "left", 8),
        DetailTask("pinwheel", "red circle", "gray", "cyan square", "beach", "middle", 4),
        DetailTask("bullseye", "yellow square", "grass", "red circle", "white", "middle", 3),
    ),
    subjects={
        "twotone": SubjectTask("circle", "sky", ("black", "beach")),
        "split": SubjectTask("square", "beach", ("gray", "grass")),
        "bullseye": SubjectTask("circle", "grass", ("black", "beach")),
        "pinwheel": SubjectTask("square", "bricks", ("white", "sky")),
        "flower": SubjectTask("star", "gray", ("beach", "night")),
    },
    pairs=(("twotone", "split"), ("bullseye", "pinwheel"), ("twotone", "flower")),
    weaves=(
        WeaveTask(("bullseye", "split"), "grass", "on the grass"),
        WeaveTask(("face", "house"), "beach", "at the beach"),
        WeaveTask(("face", "split", "bullseye"), "white", "on a white background"),
        WeaveTask(("house", "bullseye", "face"), "gray", "on a gray background"),
        WeaveTask(("bullseye", "house", "face", "split"), "white", "on a white background"),
    ),
    inventions=(
        InventionTask("object", ("circle", "square")),
        InventionTask("toy", ("star", "ring")),
        InventionTask("red object", ("square", "triangle")),
        InventionTask("striped thing", ("circle", "cross")),
        InventionTask("blue toy", ("ring", "square")),
    ),
)
