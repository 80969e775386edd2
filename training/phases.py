"""The two phases that methods learn in, and the rates that go with what learns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from .adapters import Adapters, Scope
from .checks import require_positive, require_whole
from .handles import HandleParameters
from .recipe import Phase

TOKENS, WEIGHTS = "handles", "handles + weights"  # what the phases are called


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenPhase:
    """Phase 1: only the handle vectors move (Break-A-Scene, train.py:200-211, 242-253)."""

    steps: int = 400  # optimizer steps
    learning_rate: float = 5e-4  # AdamW, constant

    def __post_init__(self) -> None:
        require_whole("token_steps", self.steps, least=0)
        require_positive("token_rate", self.learning_rate)


@dataclass(frozen=True, kw_only=True, slots=True)
class WeightPhase:
    """Phase 2: the weights of a scope move together with the handles, with a fresh optimizer."""

    steps: int = 400  # optimizer steps
    learning_rate: float = cast(float, None)  # left out: that of the scope, RATE_OF_SCOPE
    scope: Scope = Scope.FULL
    rank: int = 8  # of Scope.LOW_RANK

    def __post_init__(self) -> None:
        if cast(object, self.learning_rate) is None:
            object.__setattr__(self, "learning_rate", RATE_OF_SCOPE[self.scope])
        require_whole("weight_steps", self.steps, least=0)
        require_positive("weight_rate", self.learning_rate)
        require_whole("rank", self.rank, least=1)


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
