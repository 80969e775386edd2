"""The interface between the training loop and a method.

A method is a `Recipe`: phases, parameters and losses. The loop provides the rest: optimizer,
resuming, detection of divergence, and saving.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ..checks import require_positive, require_whole
from ..host.ports import Progress, no_progress
from .common_settings import LOOP, PREVIEWS, steps_setting
from .setting import check_settings, setting

Losses = Mapping[str, Tensor]  # name of a term -> its weighted value; the total is their sum


@dataclass(frozen=True, slots=True)
class Phase:
    """Consecutive steps with their own parameters and a new optimizer."""

    name: str
    steps: int
    learning_rate: float
    parameters: Sequence[nn.Parameter]
    # More parameters, each group with a rate of its own.
    others: Sequence[tuple[Sequence[nn.Parameter], float]] = ()
    # Those parameters that are rows of the token table. A step that does not show one gives it a
    # gradient of zero, as to every row of the official table: its momentum goes on moving it.
    handles: Sequence[nn.Parameter] = ()
    is_bounded: bool = False  # a loss of cosines: it may rise for good reason, and never explodes

    @property
    def every_parameter(self) -> list[nn.Parameter]:
        """All trained parameters of this phase."""
        return [*self.parameters, *(p for group, _ in self.others for p in group)]


class Recipe(Protocol):
    """What the training loop needs from a method."""

    def phases(self) -> Sequence[Phase]: ...

    def named_parameters(self) -> Mapping[str, nn.Parameter]:
        """All trained parameters of all phases, by stable names."""
        ...

    def computing(self, phase: Phase) -> AbstractContextManager[None]:
        """Context of a phase: trained weights applied, gradients enabled."""
        ...

    def losses(self, phase: Phase, generator: torch.Generator) -> Losses:
        """Loss terms of one forward pass; `generator` is its only source of randomness."""
        ...

    def step_down(self) -> StepDown | None:
        """Reduce memory for the following steps; None if that is not possible."""
        ...


@dataclass(frozen=True, slots=True)
class StepDown:
    """A reduction of memory."""

    message: str  # for the user
    passes: int = 1  # forward passes that now make up one of before


@dataclass(slots=True)
class Footprint:
    """The settings that determine the memory of a pass, and their reduction."""

    rows: int  # pictures a forward pass
    checkpointing: bool  # recompute activations in the backward pass

    def step_down(self) -> StepDown | None:
        """First one picture at a time, then checkpointing; None if both are active."""
        if self.rows > 1:
            passes, self.rows = self.rows, 1
            return StepDown(f"one picture at a time, {passes} passes per step", passes)
        if not self.checkpointing:
            self.checkpointing = True
            return StepDown("gradient checkpointing is on")
        return None


@dataclass(frozen=True, kw_only=True, slots=True)
class LoopConfig:
    """Settings of the loop; AdamW as in the official code of Break-A-Scene (train.py:300-323)."""

    seed: int = 0
    accumulation: int = 1  # forward passes an optimizer step
    max_grad_norm: float = setting(  # norm of all gradients of a step together
        1.0,
        help="Maximum gradient norm; 0 disables clipping. Lower is safer and slower.",
        former=("clip",),
        minimum=0.0,
        maximum=100.0,
        step=0.1,
        is_advanced=True,
        panel=LOOP,
    )
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = setting(
        1e-2,
        help="Weight decay: pulls everything trained towards zero. 0 disables it; high values "
        "reduce likeness.",
        minimum=0.0,
        maximum=1.0,
        step=0.001,
        is_advanced=True,
        panel=LOOP,
    )
    epsilon: float = 1e-8
    loss_scale: float = 1.0  # above 1 for half-precision models, so that gradients do not vanish
    save_every: int = steps_setting(
        100,
        "Steps between saved states, from which a crashed run resumes. 0 saves only at the end "
        "and on cancel.",
        is_advanced=True,
        panel=LOOP,
    )
    preview_every: int | None = steps_setting(  # None: at the end only
        None,
        "Steps between previews on the node and in the timeline. 0 disables previews, "
        "including the last one; few steps show more and take longer.",
        panel=PREVIEWS,
    )
    keep_state: bool = setting(
        True,
        help="On: keeps the last state of a finished run, so that the same run need not train "
        "again; it takes three times the size of the trained weights. Off: deletes it.",
        is_advanced=True,
        panel=LOOP,
    )

    def __post_init__(self) -> None:
        check_settings(self)
        for name in ("epsilon", "loss_scale"):
            require_positive(name, getattr(self, name))
        require_whole("accumulation", self.accumulation, least=1)

    @property
    def numerics(self) -> dict[str, Any]:
        """The settings that affect the trained values, as JSON values."""
        outside = ("save_every", "preview_every", "keep_state")
        return {name: value for name, value in asdict(self).items() if name not in outside}

    def previews_of(self, steps: int) -> int:
        """Number of previews in a run of this length, including the last one."""
        if self.preview_every == 0:
            return 0
        return 1 if self.preview_every is None else -(-steps // self.preview_every)


@dataclass(slots=True)
class LoopState:
    """Everything needed to resume a run."""

    step: int = 0  # optimizer steps done, over all phases
    history: list[dict[str, float]] = field(default_factory=list)
    optimizer: torch.optim.AdamW | None = None
    phase: int = -1  # whose optimizer that is
    stepped_down: bool = False  # memory ran out once; the recipe needs less since
    passes: int = 1  # forward passes for one of the configured ones
    is_whole: bool = True  # False while a step is being taken: parameters and step do not agree


class StateStore(Protocol):
    """Storage for the state of a run."""

    def save(self, state: LoopState, parameters: Mapping[str, nn.Parameter]) -> str:
        """Write everything in one atomic step; returns where, for the user."""
        ...

    def load(
        self,
        parameters: Mapping[str, nn.Parameter],
        optimizer_for: Callable[[int], torch.optim.AdamW],
    ) -> LoopState | None:
        """Fill the parameters from the newest saved state; None when there is none."""
        ...

    def drop_after(self, step: int) -> None:
        """Delete the states of later steps."""
        ...


@dataclass(slots=True)
class Events:
    """Callbacks of a run."""

    progress: Progress = no_progress
    # The row that the history keeps: who hears of it may add columns that are no losses.
    on_step: Callable[[dict[str, float]], None] = lambda row: None
    on_preview: Callable[[int], Tensor | None] = lambda step: None  # picture [H, W, 3] to show
