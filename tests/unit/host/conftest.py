"""The models that edits are tried on: one of each family, kept for a module."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ..tiny_models import FAMILIES, tiny_host

if TYPE_CHECKING:
    from conceptloom.host.diffusers import DiffusersHost


@pytest.fixture(scope="module", params=FAMILIES)
def host(request: pytest.FixtureRequest) -> DiffusersHost:
    made = tiny_host(request.param)
    made.encode_prompt("")  # at the first prompt transformers may put hooks of its own on, for good
    return made
