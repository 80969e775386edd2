"""What the tests of the command line share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from click.testing import Result

Command = Callable[..., Result]
QUICK = [
    *("--token-steps", "1", "--weight-steps", "1", "--scope", "kv", "--batch-size", "1"),
    *("--class-draw", "1", "--class-steps", "1", "--preview-steps", "1"),
]


def masks_of(pictures: Path) -> list[str]:
    """Options of the two masks."""
    names = ("mug", "robot")
    return [part for n in names for part in ("--mask", f"my-{n}={pictures / n}.png:object")]
