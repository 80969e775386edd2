"""ConceptLab without a prior: the text encoder's own space (the paper's CLIP-ConceptLab).

Source: `optimize_in_text_space`, coach.py:279-280. It needs nothing but the base model, and its
handles are ordinary embeddings of it. There is no image encoder, so evolution from pictures
is not possible; and texts are closer to each other than to pictures: see `text_space_config`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.nn import functional

from ..concepts.fingerprints import model_digest
from ..errors import UnsupportedModelError
from ..host.ports import HandleVectors, Host, Tokens
from .ports import PriorSampling
from .text_side import HostText


class ClipSpace:
    """The text encoders of a base model as a `ConceptSpace`; vectors side by side for SDXL."""

    def __init__(self, host: Host) -> None:
        self._host, self._text = host, HostText(host)
        self.fingerprint = host.fingerprint

    @property
    def digest(self) -> str:
        return model_digest(self._host)

    @property
    def encoders(self) -> Mapping[str, int]:
        return self._text.encoders

    @property
    def device(self) -> torch.device:
        return self._text.device

    @property
    def dtype(self) -> torch.dtype:
        return self._host.dtype

    def tokenize(self, text: str) -> Tokens:
        return self._text.tokenize(text)

    def word_vectors(self, word: str) -> dict[str, Tensor]:
        return self._text.word_vectors(word)

    @contextmanager
    def computing(self) -> Iterator[None]:
        with self._text.computing(), torch.enable_grad():
            yield

    def imagine(
        self, text: str, handles: HandleVectors, generator: torch.Generator, sampling: PriorSampling
    ) -> Tensor:
        return self._text.encode(text, handles).pooled[0].float()

    @torch.no_grad()
    def meanings(self, texts: Sequence[str]) -> Tensor:
        embeddings = torch.cat([self._text.encode(text, {}).pooled for text in texts])
        return functional.normalize(embeddings.float(), dim=-1)

    def look_at(self, images: Tensor) -> Tensor:
        raise UnsupportedModelError(
            "The text space has no image encoder for pictures; load a diffusion prior to evolve "
            "concepts, or mix words instead."
        )

    def offload(self) -> None:
        """Does nothing: the host manages its own networks."""
