"""The text side of Z-Image and Krea 2 in ComfyUI: a language model, and words by their letters."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from ...errors import ModelError
from ..families.family import Family
from ..families.llm_text import is_content, tokens_of
from ..families.single_stream import KREA_2, Z_IMAGE
from ..ports import HandleVectors, Prompt, Tokens
from .llm_clip import checked_handles, knowing, name_of
from .tokens import telling_tokens
from .weights import Weight, text_weights

_ENCODERS = {next(iter(family.token_tables)): family for family in (Z_IMAGE, KREA_2)}


def llm_of(clip: Any) -> str:
    """Name of a CLIP's language model; "" for a CLIP of another family."""
    parts = [name for name, _ in clip.cond_stage_model.named_children()]
    known = len(parts) == 1 and parts[0] in _ENCODERS and hasattr(clip.tokenizer, parts[0])
    return parts[0] if known else ""


class LlmTexts:
    """See `texts.Texts`."""

    def __init__(self, clip: Any, family: Family, context_width: int) -> None:
        self.word_encoder = next(iter(family.token_tables))
        if llm_of(clip) != self.word_encoder:
            parts = ", ".join(sorted(name for name, _ in clip.cond_stage_model.named_children()))
            raise ModelError(
                f"This CLIP consists of {parts or 'nothing'}, but {family.title} reads prompts "
                f"with {self.word_encoder}. Load CLIP with {family.title}'s own text encoder, and "
                "connect that."
            )
        self._width = context_width
        encoder: Any = getattr(clip.cond_stage_model, self.word_encoder).transformer
        width = encoder.get_input_embeddings().embedding_dim
        self.encoders: Mapping[str, int] = {self.word_encoder: width}
        self.weights: Mapping[str, Weight] = text_weights(
            clip.cond_stage_model, [self.word_encoder]
        )

    def ids(self, clip: Any, encoder: str, text: str) -> list[int]:
        return list(_tokenizer(clip)(text, add_special_tokens=False)["input_ids"])

    def encode(
        self,
        clip: Any,
        network: Callable[[], Any],
        text: str,
        handles: HandleVectors,
        like: Tensor,
    ) -> Prompt:
        reader, name = clip, self.word_encoder
        if handles:  # those that the CLIP knew already (Apply Concept) are found like these
            reader = copy.copy(clip)  # shares everything but the tokenizer
            known = {**getattr(clip.tokenizer, "handles", {}), **handles}
            reader.tokenizer = knowing(clip.tokenizer, name, known, {})
        pairs = reader.tokenize(text)
        context = reader.encode_from_tokens(pairs)
        if context.shape[-1] != self._width:
            raise ModelError(
                f"This CLIP makes contexts {context.shape[-1]} wide, but the MODEL reads "
                f"{self._width}; connect MODEL and CLIP of the same release."
            )
        tokens = _tokens(reader, pairs, context.shape[1])
        return Prompt(text, context.to(like.device).float(), tokens, content=is_content(tokens))


def telling_llm(
    clip: Any, handles: HandleVectors | None = None, identities: Mapping[str, str] | None = None,
    tell: Callable[[str, Any], None] | None = None,
) -> Any:  # fmt: skip
    """A clone of a CLIP that writes the letters of each prompt's rows into its conditioning.

    Args:
        handles: that it shall know; with what tells of words that look like handles and are none.

    Raises:
        HandleError: a handle does not fit.
    """
    patched = clip.clone()
    if handles is not None:
        name = llm_of(clip)
        encoder: Any = getattr(clip.cond_stage_model, name).transformer
        width = encoder.get_input_embeddings().embedding_dim
        checked = checked_handles(handles, name, width)
        patched.tokenizer = knowing(clip.tokenizer, name, checked, identities or {}, tell)
        clip = patched
    telling_tokens(patched, lambda pairs, rows: _tokens(clip, pairs, rows))
    return patched


def _tokens(clip: Any, pairs: Mapping[str, Any], rows: int) -> Tokens:
    tokenizer = _tokenizer(clip)
    ids = [entry[0] for chunk in pairs[llm_of(clip)] for entry in chunk]
    return tokens_of(
        [token if isinstance(token, int) else name_of(clip.tokenizer, token) for token in ids],
        lambda run: tokenizer.decode(
            run, skip_special_tokens=False, clean_up_tokenization_spaces=False
        ),
        rows,
    )


def _tokenizer(clip: Any) -> Any:
    return getattr(clip.tokenizer, llm_of(clip)).tokenizer
