"""What is woven, how long, with what switched off, and what is measured."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from quality_tables import Claim, Measure

from conceptloom.methods.concept_weaver import Mixing, WeaveConfig
from conceptloom.methods.personalized_residuals import PersonalizedResidualsConfig
from conceptloom.tinyworld.concepts import item
from conceptloom.tinyworld.world import Scene, article, render

# What stands in the template for a concept: something that the model knows and that comes near. Its
# last word is the one that the concept is learned from.
WORDS = {
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
        """The template's objects."""
        return [WORDS[concept] for concept in self.concepts]

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
    Job(("face", "house"), "beach", "at the beach"),
    Job(("face", "split", "bullseye"), "white", "on a white background"),
    Job(("house", "bullseye", "face"), "gray", "on a gray background"),
    Job(("bullseye", "house", "face", "split"), "white", "on a white background"),
)


# Residuals of TinyWorld's narrow layers need more rank and larger steps; that its name learns, too,
# makes an object recognisable in a few of them.
TEACHING = PersonalizedResidualsConfig(
    learning_rate=1e-2, ratio=0.25, train_handle=True, handle_rate=5e-3
)


@dataclass(frozen=True, slots=True)
class WeaveBudget:
    """How much work it is."""

    teaching_steps: int  # of every concept's training
    sampling_steps: int
    jobs: int  # the first so many


FULL = WeaveBudget(200, 16, len(JOBS))
QUICK = WeaveBudget(30, 6, 2)
WHOLE = "whole method"
WHOLE_LESS = "without suppression"
PLACE_ALONE = "background reads its place alone"
MERGED, MASKED = "merged concepts, one prompt", "merged concepts, masked conditioning"
_CONFIG = WeaveConfig(cfg=3.0, suppression=0.2, negative="")
VARIANTS: dict[str, WeaveConfig] = {
    WHOLE: _CONFIG,
    "without injection": replace(_CONFIG, resnet_until=0.0, attention_until=0.0),
    "without prompts of their own": _CONFIG,
    WHOLE_LESS: replace(_CONFIG, suppression=0.0),
    PLACE_ALONE: _CONFIG,
    "score mixing": replace(_CONFIG, mixing=Mixing.SCORES),
    MERGED: _CONFIG,
    MASKED: replace(_CONFIG, resnet_until=0.0, attention_until=0.0, mixing=Mixing.SCORES),
}
NOTES = {
    PLACE_ALONE: 'its prompt is "a photo at the beach"; the paper\'s names all objects',
    "without prompts of their own": "every region reads one prompt with all names",
    "score mixing": "the paper's naive baseline: a pass for each concept",
    MERGED: "all differences added up in one model, all names in one prompt, same injection",
    MASKED: "the merged model, a prompt for each region, predictions mixed by masks: what core "
    "ComfyUI's Conditioning (Set Mask) does; no injection",
}


MEASURES = (
    Measure("likeness", "likeness", "cosine of what stands in a region with its own concept"),
    Measure(
        "identity", "identity", "share of regions nearest to their own concept, out of sixteen"
    ),
    Measure("mixing", "mixing", "share of regions that are nearer to another woven concept", False),
    Measure("layout", "layout", "IoU of the objects found with those of the template"),
    Measure("background", "background", "share of pictures that keep the template's background"),
)


CLAIMS = (
    Claim("Injected features hold the template's layout", WHOLE, "without injection", "layout"),
    Claim(
        "A prompt of its own for every concept keeps looks apart",
        WHOLE,
        "without prompts of their own",
        "likeness",
    ),
    Claim(
        "Suppressing the concept-free features brings concepts out", WHOLE, WHOLE_LESS, "likeness"
    ),
    Claim("Mixing features is better than mixing scores", WHOLE, "score mixing", "likeness"),
    Claim("... and what it draws keeps to the layout better", WHOLE, "score mixing", "layout"),
    Claim("Better than merged weights and one prompt", WHOLE, MERGED, "likeness"),
    Claim("... with fewer concepts in a wrong place", WHOLE, MERGED, "mixing"),
    Claim("Better than conditioning under masks", WHOLE, MASKED, "likeness"),
)
