"""What the quality benchmarks teach: scenes, details, subjects, weaves and inventions of TinyWorld.

Objects are held-out members by their names, "mug1"; known ones are "red mug".
"""

from __future__ import annotations

from dataclasses import dataclass


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
    """An ornament on one known object, and another one that is to carry it."""

    ornament: str
    source: str
    source_background: str
    target: str
    target_background: str
    seed: int

    @property
    def name(self) -> str:
        return f"{self.ornament} {self.source} to {self.target}"


@dataclass(frozen=True)
class SubjectTask:
    """One held-out member, taught on one background."""

    word: str  # class word
    taught_on: str
    drawn_on: tuple[str, ...]


@dataclass(frozen=True)
class WeaveTask:
    """Concepts to weave into a template of known members of their classes.

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
class LoraTask:
    """A LoRA of one held-out member: its trigger, and words that the base model knows for it."""

    member: str
    trigger: str
    words: str

    @property
    def told(self) -> str:
        """What prompts and captions say."""
        return f"a {self.trigger} {self.words}"

    @property
    def colour(self) -> str:
        return self.words.split()[0]

    @property
    def kind(self) -> str:
        return self.words.split()[1]


@dataclass(frozen=True)
class LoraSet:
    """Members whose LoRAs are drawn in one picture."""

    members: tuple[str, ...]
    background: str

    @property
    def name(self) -> str:
        return "+".join(self.members)


@dataclass(frozen=True)
class InventionTask:
    """A category, and the pair of members that a user would think of."""

    category: str
    pair: tuple[str, str]


SCENES = (
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
)
DETAILS = (
    DetailTask("spiral", "green mug", "white", "red house", "sky", 5),
    DetailTask("sun", "pink vase", "beach", "blue teapot", "white", 6),
    DetailTask("clover", "red ball", "white", "blue mug", "grass", 7),
    DetailTask("bolt", "yellow house", "gray", "red vase", "beach", 8),
    DetailTask("sun", "green fish", "white", "orange ball", "gray", 9),
    DetailTask("spiral", "orange castle", "sky", "green mushroom", "white", 10),
    DetailTask("clover", "purple mushroom", "beach", "yellow castle", "white", 11),
    DetailTask("bolt", "green teapot", "white", "orange mushroom", "sky", 12),
    DetailTask("spiral", "blue ball", "gray", "pink teapot", "grass", 13),
    DetailTask("sun", "cyan castle", "white", "red fish", "gray", 14),
)
SUBJECTS = {
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
}
PAIRS = (("mug2", "fish1"), ("house2", "boat2"), ("mushroom1", "ball1"))
LORAS = {
    task.member: task
    for task in (
        LoraTask("mug2", "zeb", "orange mug"),
        LoraTask("house2", "kip", "pink house"),
        LoraTask("cat3", "vux", "green cat"),
        LoraTask("cat1", "olo", "blue cat"),
        LoraTask("fish1", "miro", "orange fish"),
        LoraTask("boat2", "tano", "blue boat"),
        LoraTask("mushroom1", "pelu", "blue mushroom"),
        LoraTask("teapot1", "sivi", "orange teapot"),
        LoraTask("robot2", "wugu", "blue robot"),
        LoraTask("vase3", "bexo", "yellow vase"),
        LoraTask("umbrella1", "duni", "blue umbrella"),
        LoraTask("bird2", "fako", "cyan bird"),
        LoraTask("car3", "gizo", "purple car"),
        LoraTask("flower3", "hupe", "purple flower"),
    )
}
LORA_SETS = (
    LoraSet(("mug2", "house2"), "white"),
    LoraSet(("fish1", "boat2", "mushroom1"), "beach"),
    LoraSet(("cat3", "cat1"), "gray"),  # told apart by their colours
    LoraSet(("mug2", "boat2", "robot2", "cat1"), "white"),
    LoraSet(("teapot1", "robot2"), "grass"),
    LoraSet(("house2", "cat3", "mug2"), "sky"),
    LoraSet(("fish1", "teapot1"), "gray"),
    LoraSet(("mushroom1", "house2", "cat3", "fish1"), "grass"),
)
# Scenes that settings are chosen on, and no table shows.
TUNING_SETS = (
    LoraSet(("vase3", "car3"), "gray"),
    LoraSet(("bird2", "umbrella1"), "white"),
    LoraSet(("flower3", "vase3", "bird2"), "white"),
    LoraSet(("car3", "flower3"), "beach"),
)
OTHER = "blue ball"  # a known object beside a concept
WEAVES = (
    WeaveTask(("mug1", "fish2"), "grass", "on the grass"),
    WeaveTask(("mushroom3", "house1"), "beach", "at the beach"),
    WeaveTask(("boat1", "umbrella2"), "gray", "on a gray background"),
    WeaveTask(("robot1", "ball2"), "sky", "in the sky"),
    WeaveTask(("cat1", "teapot2"), "white", "on a white background"),
    WeaveTask(("mug1", "house1", "fish2"), "white", "on a white background"),
)
# What stands in a template for a concept: a member of its class in a colour that is not its own.
TEMPLATE_WORDS = {
    "mug1": "red mug",
    "fish2": "blue fish",
    "mushroom3": "purple mushroom",
    "house1": "green house",
    "boat1": "red boat",
    "umbrella2": "blue umbrella",
    "robot1": "orange robot",
    "ball2": "green ball",
    "cat1": "yellow cat",
    "teapot2": "red teapot",
}
INVENTIONS = (
    InventionTask("container", ("mug", "vase")),
    InventionTask("animal", ("fish", "cat")),
    InventionTask("building", ("house", "castle")),
    InventionTask("plant", ("flower", "tree")),
    InventionTask("toy", ("ball", "robot")),
)
# background -> a word to learn it as a concept from
BACKGROUND_WORDS = {name: name for name in ("white", "grass", "beach", "sky", "gray")} | {
    "bricks": "brick"
}
