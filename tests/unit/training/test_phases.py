"""The two phases: what they learn at when nobody says."""

from __future__ import annotations

import pytest

from conceptloom.errors import ConfigError
from conceptloom.training.adapters import Scope
from conceptloom.training.phases import RATE_OF_SCOPE, WeightPhase


@pytest.mark.parametrize("scope", list(Scope))
def test_the_rate_goes_with_what_learns(scope: Scope) -> None:
    assert WeightPhase(scope=scope).learning_rate == RATE_OF_SCOPE[scope]


def test_a_rate_that_is_named_stays() -> None:
    phase = WeightPhase(scope=Scope.LOW_RANK, learning_rate=3e-3)
    assert phase.learning_rate == 3e-3


def test_no_rate_is_no_way_around_the_check() -> None:
    with pytest.raises(ConfigError, match="weight_rate is 0"):
        WeightPhase(learning_rate=0)
