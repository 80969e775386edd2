"""The model that most tests of the methods work with."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from conceptloom.host.diffusers import DiffusersHost


@pytest.fixture
def host() -> DiffusersHost:
    """A model of SD 1's kind, anew for every test."""
    from ..tiny_models import tiny_host

    return tiny_host()
