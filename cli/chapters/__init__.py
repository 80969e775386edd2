"""The demo's further stories: one file and one `tell` for each method."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from ...host.ports import Host, Progress


@dataclass(frozen=True, slots=True)
class Stage:
    """What a story is told with."""

    host: Host  # TinyWorld; to be given back as it was
    folder: Path  # for files that the reader may want to keep
    progress: Progress  # told of every step; may raise to cancel
    say: Callable[[str], None]  # one line for the terminal
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture of a story, with the oracle's verdict where there is one."""

    image: Tensor  # [H, W, 3], 0..1
    caption: str
    is_right: bool | None = None
    is_wide: bool = False  # a strip or a plot: shown over the whole width


@dataclass(frozen=True, slots=True)
class Table:
    """Figures of a story; every row begins with its name."""

    heads: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True, slots=True)
class Chapter:
    """What the page shows of one story. Handles in the texts stand as <name>."""

    title: str
    text: str
    pictures: Sequence[Picture]
    table: Table | None = None
    meaning: str = ""  # of the table's figures
    command: str = ""  # how to do this with one's own pictures


Teller = Callable[[Stage], Chapter]


def tellers() -> tuple[Teller, ...]:
    """Every story, in the order of the page."""
    from . import clic, conceptlab, residuals, weaver  # they are made of the classes above

    return (clic.tell, residuals.tell, weaver.tell, conceptlab.tell)
