"""What CLiC learns and carries over, how long, with what switched off, and what is measured."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from quality_tables import Measure

from conceptloom.methods.clic import (
    CLiCConfig,
    Form,
    as_break_a_scene_loss,
    as_custom_diffusion,
)
from conceptloom.tinyworld.ornaments import ornament_scene
from conceptloom.tinyworld.world import Scene
from conceptloom.training.adapters import Scope
from conceptloom.training.phases import TokenPhase, WeightPhase

HANDLE = "my-mark"


@dataclass(frozen=True, slots=True)
class Pair:
    """An ornament on one object, and another object that is to carry it."""

    ornament: str
    source: str  # colour and shape
    source_background: str
    target: str
    target_background: str
    part: str
    seed: int

    @property
    def name(self) -> str:
        return f"{self.ornament} {self.source} to {self.target}"

    @property
    def taught(self) -> Scene:
        return ornament_scene(
            self.source, self.ornament, self.seed, self.source_background, part=self.part
        )

    @property
    def bare(self) -> Scene:
        """The target before, with the place where the ornament belongs as its second mask."""
        return ornament_scene(
            self.target, "", self.seed + 100, self.target_background, part=self.part
        )


PAIRS = (
    Pair("face", "purple square", "white", "green circle", "sky", "middle", 5),
    Pair("twotone", "blue circle", "beach", "orange square", "black", "bottom", 7),
    Pair("split", "blue circle", "white", "yellow circle", "grass", "left", 8),
    Pair("pinwheel", "red circle", "gray", "cyan square", "beach", "middle", 4),
    Pair("bullseye", "yellow square", "grass", "red circle", "white", "middle", 3),
)
# What a user would start from: a word that the model knows and that comes near.
WORDS = {**dict.fromkeys(("bullseye", "twotone", "swirl", "face"), "circle"), "split": "square"}


@dataclass(frozen=True, slots=True)
class DetailBudget:
    """How much work a cell is."""

    token_steps: int
    weight_steps: int
    weight_rate: float  # of every weight
    batch_size: int
    pictures: int  # for each pair
    sampling_steps: int
    start: int  # of them skipped
    cfg: float = 3.0


# No step is skipped: a quarter of them, as on photographs, leaves too much of the bare part.
FULL = DetailBudget(60, 300, 5e-4, 2, 4, 25, 0)
QUICK = DetailBudget(40, 120, 5e-4, 1, 3, 14, 0)

Change = Callable[[CLiCConfig], CLiCConfig]
Cells = dict[tuple[str, int, str], dict[str, list[float]]]  # (pair, seed, variant) -> measures


def in_the_official_form(config: CLiCConfig) -> CLiCConfig:
    """The same weights, with l_context and l_RoI as the code computes them."""
    return replace(config, context_form=Form.OFFICIAL, roi_form=Form.OFFICIAL)


VARIANTS: dict[str, Change] = {
    "whole method": lambda config: config,
    "without l_att": lambda config: replace(config, attention_weight=0.0),
    "without l_context": lambda config: replace(config, context_weight=0.0),
    "without l_RoI": lambda config: replace(config, roi_weight=0.0),
    "Break-A-Scene's loss": as_break_a_scene_loss,
    "Custom Diffusion": as_custom_diffusion,
    "official form": in_the_official_form,
}
WHOLE = "whole method"
MEASURES = (
    Measure("right", "identity", "share of pictures whose target place shows the ornament"),
    Measure("likeness", "likeness", "cosine of the target place with the taught ornament"),
    Measure(
        "outside",
        "change outside",
        "mean difference, 0..1, to the decoded source, no pasting",
        False,
    ),
    Measure("pasted", "with pasting", "largest difference outside the mask after it", False),
    Measure(
        "shape", "shape kept", "overlap of the object with the target's, as the oracle sees it"
    ),
    Measure("auc", "attention AUC", "chance that a point of the taught mask is looked at more"),
)
# What the paper's ablation says that each part is for (Sec. 4, Fig. 9), in our measures.
SERVES = {
    "without l_att": ("auc", "shape"),
    "without l_context": ("likeness", "shape"),
    "without l_RoI": ("likeness", "right"),
    "Break-A-Scene's loss": ("likeness", "right"),
    "Custom Diffusion": ("likeness", "auc"),
}
CLAIMS = {
    "without l_att": "l_att ties the word to its place",
    "without l_context": "l_context makes the detail fit its object",
    "without l_RoI": "l_RoI brings the detail's likeness",
    "Break-A-Scene's loss": "a soft mask with l_RoI beats a hard mask",
    "Custom Diffusion": "the three losses beat the plain one",
}


def config_of(pair: Pair, budget: DetailBudget, seed: int, variant: str) -> CLiCConfig:
    """The settings of a cell."""
    whole = CLiCConfig(
        token_phase=TokenPhase(steps=budget.token_steps, learning_rate=5e-3),
        weight_phase=WeightPhase(
            steps=budget.weight_steps,
            learning_rate=budget.weight_rate,
            scope=Scope.FULL,
        ),
        # The words that the bundled model was trained on.
        prompt="a photo of a {object} and {concept}",
        roi_prompts=("a photo of {concept}",),
        object_word=pair.source,
        brightness=0.1,  # colours tell ornaments apart here
        views=4,
        batch_size=budget.batch_size,
        seed=seed,
    )
    return VARIANTS[variant](whole)
