"""ConceptLab as recipes for the training loop: inventing or mixing, and breeding."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ...concepts.handles import HandleParameters, checked_name
from ...errors import HandleError
from ...host.ports import Progress, no_progress
from ...rng import randint
from ...training.recipe import Losses, Phase, StepDown
from ...vision.ports import ConceptSpace, ImageGenerator, VQAModel
from .checkpoint_gallery import CheckpointGallery
from .config import ConceptKind, ConceptLabConfig, EvolutionConfig, Initialiser, check_parents
from .losses import cosines, mix_loss, negative_loss, positive_loss, shares
from .questions import Negatives, Round, question_for
from .templates import filled, random_template, without_style

SIMILARITY = "similarity "  # before the name of a constraint, in the columns of the history


class EnoughLearned(Exception):
    """The answers repeated for `early_stop` rounds; training may end."""


@dataclass(slots=True)
class SamplingContext:
    """Image generator, VQA model and checkpoint gallery of a run."""

    checkpoints: CheckpointGallery
    image_generator: ImageGenerator | None = None
    questions: VQAModel | None = None
    on_round: Callable[[Round, Tensor | None], None] = lambda done, pictures: None
    progress: Progress = no_progress  # of drawing and asking; may raise to cancel

    def pictures(
        self, config: ConceptLabConfig | EvolutionConfig, name: str, handles: HandleParameters
    ) -> Tensor | None:
        """[n, H, W, 3] the gallery, always from the same noise; None without an image generator."""
        if self.image_generator is None:
            return None
        gallery = config.pictures
        prompts = [filled(text, f"<{name}>") for text in gallery]
        try:
            with torch.no_grad():
                vectors = handles.vectors()
                return self.image_generator.paint(
                    prompts, vectors, config.gallery_seed, self.progress
                )
        finally:
            self.image_generator.offload()


def first_vectors(space: ConceptSpace, word: str, initialiser: Initialiser) -> dict[str, Tensor]:
    """Initial vectors of the handle, encoder -> [1, width]; officially those of the first token.

    Raises:
        HandleError: the word has no token.
    """
    vectors: dict[str, Tensor] = {}
    for encoder, rows in space.word_vectors(word).items():
        if not rows.shape[0]:
            raise HandleError(f"The word {word!r} has no token; start from a plain noun.")
        is_first = initialiser is Initialiser.FIRST
        rows = rows[:1] if is_first else rows.mean(dim=0, keepdim=True)
        vectors[encoder] = rows.to(space.device, torch.float32)
    return vectors


class _HandleRecipe:
    """Base of the two recipes: one handle, trained in a concept space."""

    def __init__(
        self,
        space: ConceptSpace,
        name: str,
        config: ConceptLabConfig | EvolutionConfig,
        context: SamplingContext,
        notes: dict[str, Any],
    ) -> None:
        self.space, self.name, self.context, self.notes = space, checked_name(name), context, notes
        start = first_vectors(space, config.first_word, config.initialiser)
        self.handles = HandleParameters({self.name: start})
        self.similarities: dict[str, float] = {}
        self._settings = config

    def phases(self) -> Sequence[Phase]:
        config = self._settings
        learning = [*self.handles.parameters()]
        return [Phase("handle", config.steps, config.learning_rate, learning, is_bounded=True)]

    def named_parameters(self) -> Mapping[str, nn.Parameter]:
        return self.handles.named()

    @contextmanager
    def computing(self, phase: Phase) -> Iterator[None]:
        with self.space.computing():
            yield

    def step_down(self) -> StepDown | None:
        """None: each step already runs one prompt with recomputation."""
        return None

    @property
    def step(self) -> int:
        """Steps that were taken and saved or are about to be."""
        return self.notes.get("step", 0)

    def after_step(self, row: dict[str, float]) -> None:
        """Called by the loop; adds the similarities to the history."""
        self.notes["step"] = int(row["step"])
        row |= {f"{SIMILARITY}{word}": value for word, value in self.similarities.items()}

    def keep(self) -> Tensor | None:
        """Draw the current gallery and store it with the vectors."""
        pictures = self.context.pictures(self._settings, self.name, self.handles)
        self.context.checkpoints.keep(self.step, self.handles.vectors()[self.name], pictures)
        return pictures

    def imagined(self, template: str, generator: torch.Generator) -> Tensor:
        """P(E_y(v)) [D]."""
        text = filled(template, f"<{self.name}>")
        return self.space.imagine(text, self.handles.vectors(), generator, self._settings.sampling)


class ConceptLab(_HandleRecipe):
    """Closer to the positives, farther from the negatives; positives alone are mixed.

    Args:
        space: where prompts and constraints are compared.
        name: of the handle.
        config: the settings.
        context: models for the rounds that find negatives.
        notes: JSON document that is saved with every state.
    """

    def __init__(
        self,
        space: ConceptSpace,
        name: str,
        config: ConceptLabConfig,
        context: SamplingContext,
        notes: dict[str, Any],
    ) -> None:
        super().__init__(space, name, config, context, notes)
        self.config, self.negatives = config, Negatives(notes, config)
        self._weights = shares(config.weights, len(config.positives)).to(space.device)
        self._known: dict[str, Tensor] = {}

    def losses(self, phase: Phase, generator: torch.Generator) -> Losses:
        self.negatives.begin()
        # Before a step, not behind it: who cancels during a question is asked it again.
        if self.negatives.is_due(self.step):
            self._hold_round()
        if self.negatives.has_enough:
            raise EnoughLearned
        config = self.config
        template = random_template(config.sentences, generator)
        # 1. what the concept looks like in this sentence
        imagined = self.imagined(template, generator)
        # 2. the same sentence about the constraints; no prior, so that they stay broad
        if config.kind is ConceptKind.STYLE:
            category = self._meanings([without_style(template)])
        else:
            category = self._meanings([filled(template, word) for word in config.positives])
        unwanted = self._meanings([filled(template, word) for word in self.negatives.words])
        # 3. L = 0.5 (mean + max of the negatives) + lambda sum w (1 - positive)
        positive, negative = cosines(category, imagined), cosines(unwanted, imagined)
        weights = self._weights[: positive.numel()]
        self._remember(positive, negative)
        return {
            "positive": config.positive_weight
            * positive_loss(positive, weights, config.positive_ceiling),
            "negative": negative_loss(negative, config.negative_floor),
        }

    def _meanings(self, texts: Sequence[str]) -> Tensor:
        """[n, D] E_y(c), each text encoded once in a run; none gives [0, D]."""
        if new := [text for text in dict.fromkeys(texts) if text not in self._known]:
            self._known |= dict(zip(new, self.space.meanings(new), strict=True))
        if not texts:
            some = next(iter(self._known.values()))
            return some.new_zeros(0, some.shape[-1])
        return torch.stack([self._known[text] for text in texts])

    def _remember(self, positive: Tensor, negative: Tensor) -> None:
        words = self.config.positives[: positive.numel()]
        values = [*positive.detach().tolist(), *negative.detach().tolist()]
        self.similarities = dict(zip([*words, *self.negatives.words], values, strict=True))

    def _hold_round(self) -> None:
        """Draw, ask, and process the answer; state changes only if all of it succeeds."""
        pictures, answer = self.keep(), None
        vqa = self.context.questions
        if vqa is not None and pictures is not None and self.negatives.asks_at(self.step):
            self.space.offload()  # the two largest networks are never on the device together
            try:
                self.context.progress(0, 1, "asking what the picture shows")
                answer = vqa.answer(pictures[0], question_for(self.config))
                self.context.progress(1, 1)
            finally:
                vqa.offload()
        self.context.on_round(self.negatives.heard(self.step, answer), pictures)


@dataclass(frozen=True, slots=True, eq=False)
class Parent:
    """One parent of an evolution.

    Attributes:
        name: for the lineage and the plot.
        images: [n, H, W, 3] 0..1, of a concept or photographs; usually three to five.
        history: lineage of a concept, as its file has it; empty for photographs.
    """

    name: str
    images: Tensor
    history: Mapping[str, Any]


class Evolution(_HandleRecipe):
    """A concept similar to the pictures of all its parents."""

    def __init__(
        self,
        space: ConceptSpace,
        name: str,
        parents: Sequence[Parent],
        config: EvolutionConfig,
        context: SamplingContext,
        notes: dict[str, Any],
    ) -> None:
        check_parents(config, len(parents))
        super().__init__(space, name, config, context, notes)
        self.config, self._names = config, [parent.name for parent in parents]
        self._weights = shares(config.weights, len(parents)).to(space.device)
        self._seen = [space.look_at(parent.images) for parent in parents]

    def losses(self, phase: Phase, generator: torch.Generator) -> Losses:
        every = self.config.gallery_every
        if every and self.step % every == 0 and self.step not in self.context.checkpoints.steps:
            self.context.on_round(Round(self.step, "", "", ""), self.keep())
        template = random_template(self.config.sentences, generator)
        chosen = torch.stack([seen[randint(len(seen), generator)] for seen in self._seen])
        similarities = cosines(chosen, self.imagined(template, generator))
        self.similarities = dict(zip(self._names, similarities.detach().tolist(), strict=True))
        return {"mix": mix_loss(similarities, self._weights)}
