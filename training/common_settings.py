"""Fields that configs of several methods share: their range and their help, once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeVar

from .setting import setting

Steps = TypeVar("Steps", int, int | None)
SMALLEST_RATE = 1e-7  # an optimizer does nothing below it
MOST_STEPS = 100_000
LARGEST_SEED = 2**32 - 1
# Panels of the command line's help; settings of one method alone stand under its name.
LEARNING, PRIOR, PREVIEWS, LOOP = "Learning", "Prior preservation", "Previews", "Loop"


def steps_setting(default: Steps, help: str, *, minimum: int = 0, **more: Any) -> Steps:
    """A number of steps."""
    return setting(default, help=help, minimum=minimum, maximum=MOST_STEPS, **more)


def rate_setting(default: float, help: str, **more: Any) -> float:
    """A learning rate; widgets leave every digit of it."""
    low = SMALLEST_RATE
    return setting(default, help=help, minimum=low, maximum=1.0, step=low, rounding=False, **more)


def weight_setting(default: float, help: str, *, step: float = 0.05, **more: Any) -> float:
    """Factor of a loss term."""
    return setting(default, help=help, minimum=0.0, maximum=10.0, step=step, **more)


def resolution_setting(default: int = 0) -> int:
    """Side of the square that has the area at which pictures are learned, in px."""
    return setting(
        default,
        help="Learn at the size of a square of this side; the aspect stays. 512 suits SD 1.5, "
        "1024 SDXL, 64 TinyWorld. 0 keeps the pictures' size; a large photograph then takes long "
        "and much memory.",
        option="resolution",
        minimum=0,
        maximum=4096,
        step=8,
    )


def checkpointing_setting() -> bool:
    """Whether activations are computed again in the backward pass."""
    return setting(False, help="On: much less memory and about a third more time. Off: faster.")


def batch_size_setting() -> int:
    """Pictures a forward pass."""
    return setting(
        1,
        help="Pictures in a forward pass. More are steadier and need more memory.",
        minimum=1,
        maximum=64,
        is_advanced=True,
    )


def accumulation_setting() -> int:
    """Forward passes an optimizer step."""
    return setting(
        1,
        help="Forward passes in a step. More are steadier and take longer, with no more memory.",
        minimum=1,
        maximum=64,
        is_advanced=True,
    )


def flip_setting(default: float) -> float:
    """Chance of a mirrored picture, masks with it."""
    return setting(
        default,
        help="Chance that a step sees picture and masks mirrored. 0 for things with writing or "
        "a left and a right, 1 mirrors always.",
        minimum=0.0,
        maximum=1.0,
        step=0.05,
        is_advanced=True,
    )


def views_setting(default: int, help: str) -> int:
    """Altered copies of each picture, encoded before the first step."""
    return setting(default, help=help, minimum=1, maximum=256, is_advanced=True)


def seed_setting() -> int:
    """Of everything random in a run."""
    return setting(
        0,
        help="Everything random: the same seed and inputs give the same concept, bit for bit, on "
        "the same machine.",
        minimum=0,
        maximum=LARGEST_SEED,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Seeded:
    """The seed by itself, for a node that has it beside its presets."""

    seed: int = seed_setting()
