"""Widgets that presets of several methods show."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from comfy_api.latest import io

from ..training.adapters import Scope
from ..training.phases import TokenPhase, WeightPhase
from ..training.recipe import LoopConfig

SMALLEST_RATE = 1e-7  # of the widgets; an optimizer does nothing below it


def phase_knobs(tokens: TokenPhase, weights: WeightPhase) -> Iterator[io.Input]:
    """Steps and rates of both phases, and the rank where there is one."""
    yield steps("token_steps", tokens.steps, "Steps of phase 1, in which only the names learn.")
    yield rate(
        "token_rate",
        tokens.learning_rate,
        "How far the names move in a step. Lower takes longer; too high and they wander off.",
    )
    if weights.scope is Scope.HANDLES:
        return
    yield steps(
        "weight_steps",
        weights.steps,
        "Steps of phase 2, in which weights of the model learn too. 0 leaves the model as it is; "
        "many steps give likeness but forget the rest.",
    )
    yield rate(
        "weight_rate",
        weights.learning_rate,
        "How far weights move in a step. Too low: no likeness. Too high: everything looks like "
        "the training picture, or the loss explodes and the run stops at the last good state.",
    )
    if weights.scope is Scope.LOW_RANK:
        yield io.Int.Input(
            "rank",
            default=weights.rank,
            min=1,
            max=512,
            optional=True,
            tooltip="How much each layer can learn. 1 is a very small file, 64 and more costs "
            "memory and seldom helps.",
        )


class Sized(Protocol):
    """A method's config, as far as these widgets show it."""

    @property
    def resolution_px(self) -> int: ...
    @property
    def checkpointing(self) -> bool: ...
    @property
    def batch_size(self) -> int: ...
    @property
    def accumulation(self) -> int: ...
    @property
    def flip(self) -> float: ...


def size_knobs(config: Sized) -> Iterator[io.Input]:
    """How large, how many at once, and mirrored how often."""
    yield io.Int.Input(
        "resolution_px",
        default=config.resolution_px,
        min=0,
        max=4096,
        step=8,
        optional=True,
        tooltip="Learn at the size of a square of this side; the aspect stays. 512 suits SD 1.5, "
        "1024 SDXL, 64 TinyWorld. 0 keeps the pictures' size; a large photograph then takes long "
        "and much memory.",
    )
    yield io.Boolean.Input(
        "checkpointing",
        default=config.checkpointing,
        optional=True,
        tooltip="On: much less memory and about a third more time. Off: faster.",
    )
    yield io.Int.Input(
        "batch_size",
        default=config.batch_size,
        min=1,
        max=64,
        optional=True,
        advanced=True,
        tooltip="Pictures in a forward pass. More are steadier and need more memory.",
    )
    yield io.Int.Input(
        "accumulation",
        default=config.accumulation,
        min=1,
        max=64,
        optional=True,
        advanced=True,
        tooltip="Forward passes in a step. More are steadier and take longer, with no more memory.",
    )
    yield io.Float.Input(
        "flip",
        default=config.flip,
        min=0.0,
        max=1.0,
        step=0.05,
        optional=True,
        advanced=True,
        tooltip="Chance that a step sees picture and masks mirrored. 0 for things with writing or "
        "a left and a right, 1 mirrors always.",
    )


def loop_knobs(loop: LoopConfig) -> Iterator[io.Input]:
    """Limits of the optimizer, and how often it saves."""
    yield io.Float.Input(
        "clip",
        default=loop.clip,
        min=0.0,
        max=100.0,
        step=0.1,
        optional=True,
        advanced=True,
        tooltip="Longest step that gradients may ask for. 0 lets them; small is careful and slow.",
    )
    yield io.Float.Input(
        "weight_decay",
        default=loop.weight_decay,
        min=0.0,
        max=1.0,
        step=0.001,
        optional=True,
        advanced=True,
        tooltip="How strongly everything learned is drawn back to zero. 0 not at all.",
    )
    yield io.Int.Input(
        "save_every",
        default=loop.save_every,
        min=0,
        max=100_000,
        optional=True,
        advanced=True,
        tooltip="Steps between saved states, from which a crashed run goes on. 0 saves only at the "
        "end and when you cancel.",
    )


def steps(name: str, default: int, tooltip: str) -> io.Input:
    return io.Int.Input(name, default=default, min=0, max=100_000, optional=True, tooltip=tooltip)


def rate(name: str, default: float, tooltip: str) -> io.Input:
    return io.Float.Input(
        name,
        default=default,
        min=SMALLEST_RATE,
        max=1.0,
        step=SMALLEST_RATE,
        round=False,
        optional=True,
        tooltip=tooltip,
    )


def weight(name: str, default: float, tooltip: str, step: float = 0.05) -> io.Input:
    """A factor of a loss term."""
    return io.Float.Input(
        name, default=default, min=0.0, max=10.0, step=step, optional=True, tooltip=tooltip
    )
