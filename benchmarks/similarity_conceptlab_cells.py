"""Cells (category, pair, seed, variant): invented, drawn, kept on disk, judged."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import torch
from quality_runs import short_digest
from similarity_conceptlab_plan import (
    ADAPTIVE,
    LEARNED,
    NOUNS,
    PROMPT,
    PROMPTED,
    SAMPLING,
    TEXT,
    Cell,
    InventionSimilarityBudget,
    config_of,
)
from similarity_measures import Clip
from similarity_runs import kept_pictures
from torch import Tensor

from conceptloom.host.ports import HandleVectors
from conceptloom.methods.conceptlab import invent
from conceptloom.vision.generators import DecoderPainter
from conceptloom.vision.ports import ConceptSpace, PriorSampling, VQAModel
from conceptloom.vision.prior import DiffusionPrior
from conceptloom.vision.prior_files import painter_of

HANDLE = "new"
Measured = Mapping[str, Sequence[float]]  # measure -> a number for every picture


class _Around:
    """A prior of which one thing is another."""

    def __init__(self, prior: DiffusionPrior) -> None:
        self._prior = prior

    def __getattr__(self, name: str) -> Any:
        return getattr(self._prior, name)


class TextSpace(_Around):
    """Compares what the prior's text encoder makes of a prompt; the prior does not imagine.

    Source: `optimize_in_text_space`, coach.py:279-280. Constraints stay those of the prior.
    """

    def imagine(
        self, text: str, handles: HandleVectors, generator: torch.Generator, sampling: PriorSampling
    ) -> Tensor:
        return self._prior.text.encode(text, handles).pooled[0].float()


class Unwanted(_Around):
    """A prior whose "nothing" is what a negative prompt shows, as in diffusers' pipelines."""

    def __init__(self, prior: DiffusionPrior, text: str, seed: int) -> None:
        super().__init__(prior)
        self._text, self._seed = text, seed

    @torch.no_grad()
    def blank(self) -> Tensor:
        generator, alone = torch.Generator().manual_seed(self._seed), PriorSampling(guidance=1.0)
        return self._prior.imagine(self._text, {}, generator, alone)[None]


@dataclass(frozen=True, slots=True)
class Networks:
    """All that invents and draws.

    Attributes:
        decoder: diffusers' pipeline behind the prior.
        questions: None leaves the adaptive variant out.
    """

    prior: DiffusionPrior
    decoder: Any
    questions: VQAModel | None = None

    def image_generator(
        self, budget: InventionSimilarityBudget, negative: str = "", seed: int = 0
    ) -> DecoderPainter:
        """Draws what the prior imagines, away from a negative prompt."""
        prior = Unwanted(self.prior, negative, seed) if negative else self.prior
        return painter_of(
            cast(DiffusionPrior, prior),
            self.decoder,
            self.prior.device,
            sampling=replace(SAMPLING, negative=negative),
            steps=budget.decoder_steps,
            cfg=7.5,
            size=(budget.side, budget.side),
        )


@dataclass(slots=True)
class StepClock:
    """Wall seconds of a step, over those that were made here; told of every step."""

    seen: list[tuple[int, float]] = field(default_factory=list[tuple[int, float]])

    def __call__(
        self, step: int, total: int, message: str = "", preview: Tensor | None = None
    ) -> None:
        self.seen.append((step, time.perf_counter()))

    @property
    def seconds(self) -> float | None:
        """None where fewer than two steps were seen."""
        if not self.seen or self.seen[0][0] == self.seen[-1][0]:
            return None
        (first, began), (last, ended) = self.seen[0], self.seen[-1]
        return (ended - began) / (last - first)


@dataclass(frozen=True, slots=True)
class Learning:
    """How a cell was learned; nothing where it was not."""

    seconds: float | None = None  # of a step, with its looks
    negatives: Sequence[str] = ()  # at the end


def file_of(networks: Networks, cell: Cell, budget: InventionSimilarityBudget) -> str:
    """Name of a cell's files: other settings have another; other answers where it asks."""
    learned = config_of(cell, budget) if cell.variant in LEARNED else None
    asked = networks.questions if cell.variant == ADAPTIVE else None
    settings = [
        PROMPT,
        asdict(SAMPLING),
        asdict(learned) if learned else None,
        asked.name if asked else "",
    ]
    return f"{cell.file}-{short_digest(json.dumps(settings))}"


def made(
    networks: Networks, cell: Cell, budget: InventionSimilarityBudget, folder: Path
) -> tuple[Tensor, Learning]:
    """Pictures [n, H, W, 3] of a cell from its file, or made now; a stopped run goes on."""
    path = folder / f"{file_of(networks, cell, budget)}.pictures.safetensors"
    beside = path.with_suffix(".json")

    def drawn() -> Iterator[Tensor]:
        handles, learning = _learned(networks, cell, budget, folder)
        beside.parent.mkdir(parents=True, exist_ok=True)
        beside.write_text(json.dumps(asdict(learning)), encoding="utf-8")
        negative = ", ".join(cell.pair) if cell.variant == PROMPTED else ""
        first = 1000 * (cell.seed + 1)  # the same noise for every variant
        image_generator = networks.image_generator(budget, negative, first)
        text = PROMPT.format(f"<{HANDLE}>" if handles else cell.category.word)
        for number in range(budget.pictures):
            yield image_generator.paint([text], handles, first + number)

    pictures = torch.cat(kept_pictures(path, drawn))
    return pictures, Learning(**json.loads(beside.read_text(encoding="utf-8")))


def _learned(
    networks: Networks, cell: Cell, budget: InventionSimilarityBudget, folder: Path
) -> tuple[HandleVectors, Learning]:
    if cell.variant not in LEARNED:
        return {}, Learning()
    space = TextSpace(networks.prior) if cell.variant == TEXT else networks.prior
    looks = cell.variant == ADAPTIVE
    clock = StepClock()
    found = invent(
        cast(ConceptSpace, space),
        HANDLE,
        config_of(cell, budget),
        image_generator=networks.image_generator(budget) if looks else None,
        questions=networks.questions if looks else None,
        folder=folder / f"{file_of(networks, cell, budget)}.state",
        progress=clock,
    )
    return found.concept.handles, Learning(clock.seconds, list(found.negatives))


class Judge:
    """CLIP, with what the texts mean to it."""

    def __init__(self, clip: Clip) -> None:
        self._clip = clip
        self._nouns = self._meant(NOUNS)

    def _meant(self, words: tuple[str, ...]) -> Tensor:
        return self._clip.of_texts([PROMPT.format(word) for word in words])

    def judged(self, pictures: Tensor, cell: Cell) -> Measured:
        """Every measure of every picture [n, H, W, 3]."""
        seen = self._clip.of_images(pictures)
        positive = seen @ self._meant((cell.category.word,))[0]
        nearer = (seen @ self._meant(cell.pair).T).amax(dim=1)
        nearest = (seen @ self._nouns.T).amax(dim=1)
        return {
            "positive": positive.tolist(),
            "distance": (positive - nearer).tolist(),
            "nearest": nearest.tolist(),
        }
