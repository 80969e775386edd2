"""Cancellation by the user."""

from __future__ import annotations


class Cancelled(Exception):
    """A run was stopped after `step` of `total` steps of training, or of the stage before it."""

    def __init__(self, step: int, total: int, learning: bool) -> None:
        super().__init__(f"stopped after step {step} of {total}")
        self.step, self.total, self.learning = step, total, learning


class Stopped(Exception):
    """The user cancelled the command; the message says what is saved and how to resume."""
