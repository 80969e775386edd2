"""What several tests of learning start from."""

from __future__ import annotations

from pathlib import Path

import pytest

from conceptloom.concepts.concept_file import save_concept

from ..fake_host import some_concept


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A sound concept file, with everything in it."""
    return save_concept(some_concept(), tmp_path / "mug.safetensors")
