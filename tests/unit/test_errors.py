"""Errors come whole out of another process."""

from __future__ import annotations

import pickle

import pytest

from conceptloom import errors

KINDS = [kind for kind in vars(errors).values() if isinstance(kind, type)]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_an_error_says_the_same_after_its_journey(kind: type[Exception]) -> None:
    told = ("steps", 0, "1 or more") if kind is errors.ConfigError else ("no such thing",)
    error = kind(*told)
    arrived = pickle.loads(pickle.dumps(error))
    assert type(arrived) is kind
    assert str(arrived) == str(error)
    assert all(str(part) in str(arrived) for part in told)
