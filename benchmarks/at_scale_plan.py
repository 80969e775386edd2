"""What is measured at the real sizes, how long, and what was promised.

The papers' own figures, with their hardware, stand beside each target: arXiv 2305.16311, Sec. 5;
2405.12978, Sec. 4; 2404.03913, Sec. 4.
"""

from __future__ import annotations

from dataclasses import dataclass

from conceptloom.methods.personalized_residuals.recipe import RESIDUALS
from conceptloom.training.phases import TOKENS, WEIGHTS

GB = 1e9  # bytes; half a gibibyte less than a card of "8 GB" has, which its driver takes
FAMILIES = {768: "sd15", 1024: "sd21", 2048: "sdxl"}  # width of the UNet's context -> family
TRAINING_PX = {"sdxl": 1024}  # side of the pictures that are learned from; else 512, the papers'
WEAVING_PX = {"sdxl": 1024}  # side of the picture that is woven; else 768, the paper's
SAMPLING_STEPS = 50  # of every drawing
WEAVE_TIMES = 1.5  # 768 of 512, where --pixels gives a side
LIMITS = {"sd15": 8 * GB, "sdxl": 16 * GB}  # bytes in which handles + K/V have to be learned


@dataclass(frozen=True, slots=True)
class Sides:
    """Of the pictures, in pixels."""

    training: int
    weaving: int


def sides_of(family: str, pixels: int = 0) -> Sides:
    """The papers' sizes, or a side that was asked for."""
    if pixels:
        return Sides(pixels, int(WEAVE_TIMES * pixels))
    return Sides(TRAINING_PX.get(family, 512), WEAVING_PX.get(family, 768))


HARDWARE = "H200"  # what the targets are promised for


@dataclass(frozen=True, slots=True)
class Target:
    """Seconds that a run may take on one GPU of the kind `HARDWARE`.

    Attributes:
        stages: of the part, whose seconds are added up.
        families: where it is judged.
        px: side of the pictures that it speaks of.
    """

    told: str
    part: str
    stages: tuple[str, ...]
    most: float
    paper: str
    px: int
    families: tuple[str, ...] = ("sd15", "sd21")


# stages of sampling
TEMPLATE, WEAVING, DRAWING, DECODING = "template", "weaving", "drawing", "decoding"
TARGETS = (
    Target(
        "Break-A-Scene's 800 steps", "break-a-scene", (TOKENS, WEIGHTS), 60,
        "about 4.5 min a scene, A100", 512,
    ),
    Target(
        "Personalized Residuals' 150 x 4", "residuals", (RESIDUALS,), 25, "3 min, A100", 512,
    ),
    Target(
        "weaving two concepts, 50 steps", "weave", (WEAVING, DECODING), 10, "60 s, RTX 3090", 768,
    ),
    Target(
        "the same with inverting the template", "weave", (TEMPLATE, WEAVING, DECODING), 10,
        "60 s, RTX 3090 (which part of it is not told)", 768,
    ),
)  # fmt: skip


def is_whole(part: str, family: str, whole: str) -> bool:
    """Whether a part runs all of its steps.

    Args:
        whole: "targets" (those that a target speaks of), "all" or "none".
    """
    if whole != "targets":
        return whole == "all"
    return any(target.part == part and family in target.families for target in TARGETS)
