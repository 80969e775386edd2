"""The two training phases, and the learning rate of each scope."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from ..concepts.handles import HandleParameters
from .adapters import Adapters, Scope
from .common_settings import LEARNING, rate_setting, steps_setting
from .recipe import Phase
from .setting import check_settings, setting

TOKENS, WEIGHTS = "handles", "handles + weights"  # what the phases are called
# Scopes of the second phase, as the command line and batch files call them.
SCOPES = {
    "handles": Scope.HANDLES,
    "kv": Scope.CROSS_ATTENTION_KV,
    "cross": Scope.CROSS_ATTENTION,
    "low-rank": Scope.LOW_RANK,
    "full": Scope.FULL,
}


def _learns_weights(phase: WeightPhase) -> bool:
    return phase.scope is not Scope.HANDLES


def _is_low_rank(phase: WeightPhase) -> bool:
    return phase.scope is Scope.LOW_RANK


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenPhase:
    """Phase 1: only the handle vectors train (Break-A-Scene, train.py:200-211, 242-253)."""

    steps: int = steps_setting(
        400,
        "Training steps of phase 1, which trains only the names. Too few: little "
        "likeness; more take longer.",
        name="token_steps",
    )
    learning_rate: float = rate_setting(  # AdamW, constant
        5e-4,
        "Learning rate of the names. Low values need more steps; high values make the names "
        "drift off.",
        name="token_rate",
    )

    def __post_init__(self) -> None:
        check_settings(self)


@dataclass(frozen=True, kw_only=True, slots=True)
class WeightPhase:
    """Phase 2: the weights of a scope train together with the handles, with a new optimizer."""

    steps: int = steps_setting(
        400,
        "Training steps of phase 2, which also trains weights of the model. 0 leaves the model "
        "unchanged; many steps improve likeness, but the model forgets other things.",
        name="weight_steps",
        applies=_learns_weights,
    )
    learning_rate: float = rate_setting(
        cast(float, None),  # left out: that of the scope, RATE_OF_SCOPE
        "Learning rate of the weights. Too low: no likeness. Too high: every picture looks "
        "like the training picture, or the loss diverges and the run stops at the last good "
        "state.",
        name="weight_rate",
        applies=_learns_weights,
    )
    scope: Scope = setting(
        Scope.FULL,
        help="Weights of the model to train in phase 2. Without weight_rate, the scope's own rate "
        "applies.",
        choices=SCOPES,
        panel=LEARNING,
        is_widget=False,  # every preset has its own
    )
    rank: int = setting(
        8,
        help="Capacity of each layer's change. 1 gives a very small file; 64 and more cost "
        "memory and rarely help.",
        minimum=1,
        maximum=512,
        panel=LEARNING,
        applies=_is_low_rank,
    )

    def __post_init__(self) -> None:
        if cast(object, self.learning_rate) is None:
            object.__setattr__(self, "learning_rate", RATE_OF_SCOPE[self.scope])
        check_settings(self)


# 2e-6 is the official rate of the full scope. Custom Diffusion and CLiC train cross-attention at
# 1e-5, Personalized Residuals the output projections at 1e-3. The one of low-rank factors is ours.
RATE_OF_SCOPE = {
    Scope.HANDLES: 5e-4,
    Scope.CROSS_ATTENTION_KV: 1e-5,
    Scope.CROSS_ATTENTION: 1e-5,
    Scope.PROJ_OUT: 1e-3,
    Scope.LOW_RANK: 1e-4,
    Scope.FULL: 2e-6,
}


def two_phases(
    tokens: TokenPhase, weights: WeightPhase, handles: HandleParameters, adapters: Adapters
) -> list[Phase]:
    """Handles alone first, then handles and weights together."""
    vectors = list(handles.parameters())
    every = [*vectors, *adapters.parameters()]
    return [
        Phase(TOKENS, tokens.steps, tokens.learning_rate, vectors, handles=vectors),
        Phase(WEIGHTS, weights.steps, weights.learning_rate, every, handles=vectors),
    ]
