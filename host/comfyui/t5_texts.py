"""Cosmos-Predict2's text side in ComfyUI: the old T5-XXL, whose contexts are 1024 wide.

The host calls the encoder t5xxl, as it does the newer ones of other families, and keeps its
tokenizer under another name.
"""

from __future__ import annotations

from typing import Any

from ..families.anima import T5_XXL

WIDTH = 1024  # of its vectors; newer ones have 4096
_TOKENIZERS = {T5_XXL: f"clip_{T5_XXL}"}


def tokenizer_name(encoder: str) -> str:
    """What the host calls the tokenizer of an encoder."""
    return _TOKENIZERS.get(encoder, encoder)


def is_t5_clip(clip: Any) -> bool:
    """Whether a CLIP is Cosmos-Predict2's."""
    parts = {name for name, _ in clip.cond_stage_model.named_children()}
    inner = getattr(clip.tokenizer, _TOKENIZERS[T5_XXL], None)
    return parts == {T5_XXL} and getattr(inner, "embedding_size", 0) == WIDTH
