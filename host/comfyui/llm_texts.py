"""The text side of Z-Image and Krea 2 in ComfyUI: a language model, and words by their letters."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from ...errors import HandleError, ModelError
from ..families.family import Family
from ..families.llm_text import LEARNED, is_content, tokens_of
from ..families.single_stream import KREA_2, Z_IMAGE
from ..ports import HandleVectors, Prompt, Tokens
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
        self._title, self._width = family.title, context_width
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
        if handles:
            raise HandleError(
                f"Learned handles (<{next(iter(handles))}>) do not work on {self._title} yet; "
                "remove the concept, or use it with the model it was learned on."
            )
        pairs = clip.tokenize(text)
        context = clip.encode_from_tokens(pairs)
        if context.shape[-1] != self._width:
            raise ModelError(
                f"This CLIP makes contexts {context.shape[-1]} wide, but the MODEL reads "
                f"{self._width}; connect MODEL and CLIP of the same release."
            )
        tokens = _tokens(clip, pairs, context.shape[1])
        return Prompt(text, context.to(like.device).float(), tokens, content=is_content(tokens))


def telling_llm(clip: Any) -> Any:
    """A clone of a CLIP that writes the letters of each prompt's rows into its conditioning."""
    patched = clip.clone()
    telling_tokens(patched, lambda pairs, rows: _tokens(clip, pairs, rows))
    return patched


def _tokens(clip: Any, pairs: Mapping[str, Any], rows: int) -> Tokens:
    tokenizer = _tokenizer(clip)
    ids = [entry[0] for chunk in pairs[llm_of(clip)] for entry in chunk]
    return tokens_of(
        [token if isinstance(token, int) else LEARNED for token in ids],
        lambda run: tokenizer.decode(
            run, skip_special_tokens=False, clean_up_tokenization_spaces=False
        ),
        rows,
    )


def _tokenizer(clip: Any) -> Any:
    return getattr(clip.tokenizer, llm_of(clip)).tokenizer
