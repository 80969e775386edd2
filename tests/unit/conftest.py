"""What tests of several rooms ask for."""

from __future__ import annotations

import os

import pytest


@pytest.fixture
def quick_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Thousands of small files need not survive a power cut."""
    monkeypatch.setattr(os, "fsync", lambda _: None)
