"""Building blocks of the demo's parts. Each method's part is a module in this package."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from ...concepts.concept import Concept
from ...host.ports import Host, Progress


@dataclass(frozen=True, slots=True)
class DemoContext:
    """What a story needs to run."""

    host: Host  # TinyWorld; a story leaves it as it was
    folder: Path  # for files that the reader may want to keep
    progress: Progress  # called at every step; may raise to cancel
    say: Callable[[str], None]  # prints one line on the terminal
    seed: int = 0
    learned: dict[str, Concept] = field(default_factory=dict[str, Concept])  # by an earlier story


@dataclass(frozen=True, slots=True)
class DemoSample:
    """A picture, and the judge's verdict if it was asked for one."""

    image: Tensor  # [H, W, 3], 0..1
    is_as_asked: bool | None = None  # None: nobody asked
    seen: str = ""  # what the judge saw


@dataclass(frozen=True, slots=True)
class Figure:
    """Samples side by side over one caption. Handles stand as <name> in the caption."""

    caption: str
    samples: Sequence[DemoSample]
    is_wide: bool = False  # a strip or a plot: gets half of the page's width or more

    @classmethod
    def of(cls, image: Tensor, caption: str, *, is_wide: bool = False) -> Figure:
        """A single picture without a verdict."""
        return cls(caption, [DemoSample(image)], is_wide)

    def one(self) -> Figure:
        """A single sample for the cover: the first that is as asked, else the first."""
        right = [sample for sample in self.samples if sample.is_as_asked]
        return Figure(self.caption, (right or self.samples)[:1])


@dataclass(frozen=True, slots=True)
class Table:
    """Measured values; the first cell of a row names it."""

    heads: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True, slots=True)
class Section:
    """A part of a story: text, then figures, then a table and what its values mean."""

    title: str
    text: str
    figures: Sequence[Figure] = ()
    table: Table | None = None
    meaning: str = ""
    commands: str = ""  # how to do the same with pictures of one's own


@dataclass(frozen=True, slots=True)
class Story:
    """What the page shows of one method."""

    name: str  # the method's folder: "break_a_scene"
    title: str
    handles: Sequence[str]  # the learned words without brackets, in the order of their colours
    sections: Sequence[Section]
    cover: Sequence[Figure]  # the story in a glance: what went in, what came out

    @property
    def judged(self) -> list[tuple[Figure, DemoSample]]:
        """Every sample that the judge judged, with the figure that says what was asked."""
        return [
            (figure, sample)
            for section in self.sections
            for figure in section.figures
            for sample in figure.samples
            if sample.is_as_asked is not None
        ]

    @property
    def as_asked(self) -> tuple[int, int]:
        """How many judged samples show what was asked for, and of how many."""
        judged = self.judged
        return sum(bool(sample.is_as_asked) for _, sample in judged), len(judged)


Teller = Callable[[DemoContext], Story]
