"""What is woven, how long, with what switched off, and what is measured."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from conceptloom.methods.concept_weaver import Mixing, WeaveConfig
from conceptloom.tinyworld.concepts import item
from conceptloom.tinyworld.world import Scene, article, render

# What a user would start from: a word that the model knows and that comes near.
WORDS = {
    **dict.fromkeys(("bullseye", "twotone", "face", "moon"), "circle"),
    **dict.fromkeys(("split", "pinwheel", "house", "robot"), "square"),
}
# Places of 2, 3 and 4 objects: (x, y, radius) in the picture's unit.
SPOTS = {
    2: ((0.29, 0.42, 0.2), (0.72, 0.6, 0.2)),
    3: ((0.24, 0.3, 0.16), (0.75, 0.33, 0.16), (0.48, 0.75, 0.16)),
    4: ((0.25, 0.26, 0.15), (0.74, 0.25, 0.15), (0.26, 0.74, 0.15), (0.75, 0.75, 0.15)),
}
COLOURS = ("red", "blue", "green", "purple")


@dataclass(frozen=True, slots=True)
class Job:
    """Concepts to weave into a template of plain objects."""

    concepts: tuple[str, ...]
    background: str
    place: str  # the background as prompts say it

    @property
    def name(self) -> str:
        return f"{' '.join(self.concepts)} {self.background}"

    @property
    def words(self) -> list[str]:
        """The template's objects: "red circle", one colour each."""
        pairs = zip(COLOURS, self.concepts, strict=False)
        return [f"{colour} {WORDS[concept]}" for colour, concept in pairs]

    @property
    def sentence(self) -> str:
        parts = [article(word) for word in self.words]
        return f"a photo of {', '.join(parts[:-1])} and {parts[-1]} {self.place}"

    def template(self, seed: int) -> Scene:
        """A rendered picture, moved a little by the seed."""
        rng = np.random.default_rng(seed)
        spots = [
            (x + rng.uniform(-0.02, 0.02), y + rng.uniform(-0.02, 0.02), radius)
            for x, y, radius in SPOTS[len(self.concepts)]
        ]
        items = [item(word, spot, rng) for word, spot in zip(self.words, spots, strict=True)]
        image, masks = render(items, self.background, rng)
        return Scene(
            image=image, masks=masks, caption=self.sentence, items=tuple(items),
            background=self.background,
        )  # fmt: skip


JOBS = (
    Job(("bullseye", "split"), "grass", "on the grass"),
    Job(("twotone", "pinwheel"), "beach", "at the beach"),
    Job(("face", "split", "bullseye"), "white", "on a white background"),
    Job(("moon", "house", "robot"), "gray", "on a gray background"),
    Job(("bullseye", "pinwheel", "twotone", "split"), "white", "on a white background"),
)
CONCEPTS = tuple(dict.fromkeys(name for job in JOBS for name in job.concepts))


@dataclass(frozen=True, slots=True)
class Budget:
    """How much work it is."""

    token_steps: int  # of every concept's training
    weight_steps: int
    weight_rate: float  # of K and V
    batch_size: int
    sampling_steps: int
    jobs: int  # the first so many


FULL = Budget(80, 300, 1e-3, 4, 30, len(JOBS))
QUICK = Budget(40, 80, 1e-3, 2, 12, 3)
WHOLE = "whole method"
MERGED, MASKED = "merged concepts, one prompt", "merged concepts, masked conditioning"
_CONFIG = WeaveConfig(cfg=3.0, suppression=0.2, negative="")
VARIANTS: dict[str, WeaveConfig] = {
    WHOLE: _CONFIG,
    "without injection": replace(_CONFIG, resnet_until=0.0, attention_until=0.0),
    "without prompts of their own": _CONFIG,
    "without suppression": replace(_CONFIG, suppression=0.0),
    "score mixing": replace(_CONFIG, mixing=Mixing.SCORES),
    MERGED: _CONFIG,
    MASKED: replace(_CONFIG, resnet_until=0.0, attention_until=0.0, mixing=Mixing.SCORES),
}
NOTES = {
    "without prompts of their own": "every region reads one prompt with all names",
    "score mixing": "the paper's naive baseline: a pass for each concept",
    MERGED: "all differences added up in one model, all names in one prompt, same injection",
    MASKED: "the merged model, a prompt for each region, predictions mixed by masks: what core "
    "ComfyUI's Conditioning (Set Mask) does; no injection",
}


@dataclass(frozen=True, slots=True)
class Measure:
    """A column of the table."""

    key: str
    title: str
    meaning: str
    is_better_high: bool = True


MEASURES = (
    Measure("likeness", "likeness", "cosine of what stands in a region with its own concept"),
    Measure("identity", "identity", "share of regions that are nearest to their own concept"),
    Measure("mixing", "mixing", "share of regions that are nearer to another woven concept", False),
    Measure("layout", "layout", "IoU of the objects found with those of the template"),
    Measure("background", "background", "share of pictures that keep the template's background"),
)
