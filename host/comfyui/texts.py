"""The text side of a base model in ComfyUI: which encoders a family reads prompts with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from torch import Tensor

from ...errors import ModelError
from ..families.anima import ANIMA, COSMOS
from ..families.registry import family_of
from ..ports import HandleVectors, Prompt, UNetSites
from .anima_texts import AnimaTexts
from .llm_texts import LlmTexts, llm_of, telling_llm
from .prompts import (
    check_widths,
    clip_with_handles,
    encode,
    encoder_names,
    encoder_width,
    known_identities,
    token_ids,
)
from .sites import context_width_of
from .t5_texts import is_t5_clip
from .weights import Weight, text_weights

Network = Callable[[], Any]


class Texts(Protocol):
    """What `ComfyHost` asks of a CLIP; the CLIP is handed in, for learning works on a clone."""

    encoders: Mapping[str, int]  # text encoder -> width of its token vectors
    weights: Mapping[str, Weight]  # of the CLIP, by canonical name
    word_encoder: str  # the one whose tokens stand at the rows of a context

    def ids(self, clip: Any, encoder: str, text: str) -> list[int]:
        """Token ids of a text, without start, end and padding."""
        ...

    def encode(
        self, clip: Any, network: Network, text: str, handles: HandleVectors, like: Tensor
    ) -> Prompt:
        """One prompt, on the device of `like`; differentiable in the handle vectors.

        Args:
            network: loads the MODEL's network and gives it, for prompts that pass through it too.
            like: has the precision in which the network computes.
        """
        ...


class ClipTexts:
    """CLIP text encoders, whose outputs stand side by side, or Cosmos-Predict2's T5."""

    def __init__(self, clip: Any, context_width: int, *, is_t5: bool = False) -> None:
        names = encoder_names(clip)
        if is_t5_clip(clip) != is_t5:
            needs = "Cosmos-Predict2 reads" if is_t5 else "this MODEL does not read"
            raise ModelError(
                f"This CLIP consists of {', '.join(names)}, but {needs} prompts with the old "
                "T5-XXL; connect MODEL and CLIP of the same family."
            )
        self.encoders: Mapping[str, int] = {n: encoder_width(clip, n) for n in names}
        check_widths(clip, context_width)
        self.weights: Mapping[str, Weight] = text_weights(clip.cond_stage_model, names)
        self.word_encoder = names[0]

    def ids(self, clip: Any, encoder: str, text: str) -> list[int]:
        return token_ids(clip, encoder, text)

    def encode(
        self, clip: Any, network: Network, text: str, handles: HandleVectors, like: Tensor
    ) -> Prompt:
        return encode(clip, text, handles, like.device)


def texts_of(clip: Any, network: Any, sites: UNetSites) -> Texts:
    """The text side that the family of a network needs.

    Raises:
        UnsupportedModelError, ModelError: the CLIP is another family's.
    """
    if sites.family == ANIMA.name:
        return AnimaTexts(clip, network)
    if (family := family_of(network)) is not None and family.joint is not None:
        return LlmTexts(clip, family, context_width_of(sites))
    if sites.family == COSMOS.name:
        return ClipTexts(clip, context_width_of(sites), is_t5=True)
    return ClipTexts(clip, context_width_of(sites))


def telling_clip(clip: Any) -> Any:
    """A clone of a CLIP that tells which words stand at which rows of its conditionings."""
    if llm_of(clip) and not known_identities(clip):
        return telling_llm(clip)
    return clip_with_handles(clip, {})
