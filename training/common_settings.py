"""Settings that several methods share, with their ranges and help texts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeVar

from .setting import setting

Steps = TypeVar("Steps", int, int | None)
SMALLEST_RATE = 1e-7  # an optimizer does nothing below it
MOST_STEPS = 100_000
LARGEST_SEED = 2**32 - 1  # of a widget; links and scripts may bring larger ones
# Panels of the command line's help; settings of one method alone stand under its name.
LEARNING, PRIOR, PREVIEWS, LOOP = "Learning", "Prior preservation", "Previews", "Loop"


def steps_setting(default: Steps, help: str, *, minimum: int = 0, **more: Any) -> Steps:
    """A number of steps."""
    return setting(default, help=help, minimum=minimum, maximum=MOST_STEPS, **more)


def rate_setting(default: float, help: str, **more: Any) -> float:
    """A learning rate; its widget does not round."""
    low = SMALLEST_RATE
    return setting(default, help=help, minimum=low, maximum=1.0, step=low, rounding=False, **more)


def weight_setting(default: float, help: str, *, step: float = 0.05, **more: Any) -> float:
    """Factor of a loss term."""
    return setting(default, help=help, minimum=0.0, maximum=10.0, step=step, **more)


def resolution_setting(default: int = 0) -> int:
    """Side in px of the square with the training area."""
    return setting(
        default,
        help="Training resolution: the area of a square with this side; the aspect ratio is "
        "kept. 512 for SD 1.5, 768 for SD 2.1, 1024 for SDXL, Anima, Z-Image and Krea 2, 128 "
        "for TinyWorld. 0 keeps the size of the pictures; a large photograph then takes long and "
        "much memory.",
        option="resolution",
        minimum=0,
        maximum=4096,
        step=8,
    )


def checkpointing_setting() -> bool:
    """Whether to recompute activations in the backward pass."""
    return setting(
        False,
        help="Gradient checkpointing. On: much less memory, about a third more time. Off: faster.",
    )


def batch_size_setting() -> int:
    """Pictures a forward pass."""
    return setting(
        1,
        help="Pictures per forward pass. More give steadier gradients and need more memory.",
        minimum=1,
        maximum=64,
        is_advanced=True,
    )


def accumulation_setting() -> int:
    """Forward passes an optimizer step."""
    return setting(
        1,
        help="Forward passes per step. More give steadier gradients and take longer, without "
        "more memory.",
        minimum=1,
        maximum=64,
        is_advanced=True,
    )


def flip_setting(default: float) -> float:
    """Probability of mirroring picture and masks."""
    return setting(
        default,
        help="Probability that a step mirrors picture and masks. 0 for text or objects with a "
        "left and a right side, 1 always mirrors.",
        minimum=0.0,
        maximum=1.0,
        step=0.05,
        is_advanced=True,
    )


def views_setting(default: int, help: str) -> int:
    """Number of augmented copies of each picture, encoded before the first step."""
    return setting(default, help=help, minimum=1, maximum=256, is_advanced=True)


def seed_setting() -> int:
    """Seed of all randomness in a run."""
    return setting(
        0,
        help="Seed of all randomness. The same seed and inputs give the same concept, bit for "
        "bit, on the same machine.",
        minimum=0,
        maximum=LARGEST_SEED,
        is_limit=False,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Seeded:
    """The seed alone, for nodes with the seed next to their presets."""

    seed: int = seed_setting()
