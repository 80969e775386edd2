"""The interfaces of ConceptLab's networks: prior, image generator, VQA model.

In a *space*, prompts and pictures are vectors [D], and their cosine measures similarity. Networks
stay on the CPU until they are used; `offload` moves them back.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ..host.ports import HandleVectors, Progress, Tokens, no_progress
from ..training.setting import check_settings, setting


@dataclass(frozen=True, kw_only=True, slots=True)
class PriorSampling:
    """How a diffusion prior is sampled; the numbers of ConceptLab's code (coach.py:271-278)."""

    steps: int = setting(  # denoising steps, all of which the gradient passes
        5,
        name="prior_steps",
        help="Steps of the prior; the time grows with each.",
        minimum=2,
        maximum=1000,
        is_advanced=True,
    )
    guidance: float = setting(  # against `negative`
        4.0,
        name="prior_guidance",
        option="guidance",
        help="Guidance scale of the prior: 1 disables guidance and halves the work, the official "
        "value is 4.",
        minimum=1.0,
        maximum=20.0,
        step=0.5,
        is_advanced=True,
    )
    negative: str = ""
    checkpointing: bool = setting(  # compute each step again in the backward pass
        True,
        help="Gradient checkpointing. On: the memory of one step of the prior, a third more time. "
        "Off: faster.",
        is_advanced=True,
    )

    def __post_init__(self) -> None:
        check_settings(self)


class ConceptSpace(Protocol):
    """A text encoder, with or without a prior behind it."""

    @property
    def encoders(self) -> Mapping[str, int]:
        """Text encoder of a handle's token vectors -> width."""
        ...

    @property
    def device(self) -> torch.device: ...

    @property
    def dtype(self) -> torch.dtype:
        """Precision that the networks compute in."""
        ...

    @property
    def fingerprint(self) -> str:
        """Kind and shapes of the model of the concepts trained here."""
        ...

    @property
    def digest(self) -> str:
        """Tells two models of one kind apart, as 64 hex digits."""
        ...

    def tokenize(self, text: str) -> Tokens:
        """BPE ids of a text, without start and end."""
        ...

    def word_vectors(self, word: str) -> dict[str, Tensor]:
        """Token vectors [n, width] of a word per encoder."""
        ...

    def computing(self) -> AbstractContextManager[None]:
        """Context in which `imagine` has gradients."""
        ...

    def imagine(
        self, text: str, handles: HandleVectors, generator: torch.Generator, sampling: PriorSampling
    ) -> Tensor:
        """P(E_y(v)): the embedding [D] of a picture of a prompt, differentiable in the handles."""
        ...

    def meanings(self, texts: Sequence[str]) -> Tensor:
        """E_y(c): unit embeddings [n, D] of plain texts, without gradient; no prior comes in."""
        ...

    def look_at(self, images: Tensor) -> Tensor:
        """E_im(c): unit embeddings [n, D] of pictures [n, H, W, 3], 0..1.

        Raises:
            UnsupportedModelError: there is no image encoder.
        """
        ...

    def offload(self) -> None:
        """Free the device until the next use."""
        ...


class ImageGenerator(Protocol):
    """Draws pictures of prompts with handles."""

    @property
    def name(self) -> str:
        """What draws, and how; other pictures make another run."""
        ...

    def paint(
        self,
        prompts: Sequence[str],
        handles: HandleVectors,
        seed: int,
        progress: Progress = no_progress,
    ) -> Tensor:
        """[n, H, W, 3] one picture for each prompt, 0..1, on the CPU; the same for a seed."""
        ...

    def offload(self) -> None:
        """Free the device until the next use."""
        ...


class VQAModel(Protocol):
    """Answers questions about a picture."""

    @property
    def name(self) -> str:
        """Which model answers; other answers make another run."""
        ...

    def answer(self, image: Tensor, question: str) -> str:
        """What a picture [H, W, 3], 0..1, shows, in a few words; may be empty."""
        ...

    def offload(self) -> None:
        """Free the device until the next use."""
        ...
