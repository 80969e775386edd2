"""What tests of several packages ask for."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from conceptloom.host.uncompiled import uncompiled


@pytest.fixture
def quick_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Thousands of small files need not survive a power cut."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


@pytest.fixture(autouse=True)
def every_pass_ends() -> Iterator[None]:
    """No edit, however its pass ended, keeps the process from running compiled networks."""
    yield
    assert uncompiled._inside == 0


@pytest.fixture
def command() -> Iterator[Callable[..., Any]]:
    """Runs `conceptloom ...` in this process; anything but a message is an exception."""
    pytest.importorskip("diffusers", reason="the command line draws with diffusers")
    testing = pytest.importorskip("typer.testing", reason="pip install 'conceptloom[cli]'")
    from conceptloom.cli.app import app

    log = logging.getLogger("conceptloom")
    before = (log.handlers, log.level)

    def run(*arguments: object) -> Any:
        return testing.CliRunner().invoke(app, [str(a) for a in arguments], terminal_width=200)

    yield run
    log.handlers = before[0]
    log.setLevel(before[1])
