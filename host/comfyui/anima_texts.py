"""Anima's text side in ComfyUI: Qwen3 in the CLIP, T5's tokens and the adapter in the MODEL."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from ...errors import ModelError
from ..families.anima import LAYOUT, QWEN, T5
from ..families.anima_text import AnimaRows, padded, rows_of, spliced, vectors_of
from ..ports import HandleVectors, Prompt
from .weights import Weight, text_weights, usable

TOKENIZERS = {QWEN: "qwen3_06b", T5: "t5xxl"}  # the host's names, of tokenizers and their tokens


def is_anima_clip(clip: Any) -> bool:
    """Whether a CLIP has Anima's encoder and both of its tokenizers."""
    parts = {name for name, _ in clip.cond_stage_model.named_children()}
    return parts == {QWEN} and all(hasattr(clip.tokenizer, n) for n in TOKENIZERS.values())


def check_anima_clip(clip: Any) -> None:
    """Raises ModelError for a CLIP that Anima cannot read prompts with."""
    if not is_anima_clip(clip):
        parts = ", ".join(sorted(name for name, _ in clip.cond_stage_model.named_children()))
        raise ModelError(
            f"This CLIP consists of {parts or 'nothing'}, but Anima reads prompts with Qwen3 0.6B. "
            "Load CLIP with the type that Anima's text encoder needs, and connect that."
        )


class AnimaTexts:
    """See `texts.Texts`."""

    word_encoder = T5

    def __init__(self, clip: Any, network: Any) -> None:
        check_anima_clip(clip)
        model: Any = getattr(clip.cond_stage_model, QWEN).transformer
        adapter = network.llm_adapter
        width = adapter.blocks[0].cross_attn.context_dim
        self.encoders: Mapping[str, int] = {
            QWEN: model.get_input_embeddings().embedding_dim,
            T5: adapter.embed.embedding_dim,
        }
        if self.encoders[QWEN] != width:
            raise ModelError(
                f"This CLIP's states are {self.encoders[QWEN]} wide, but the MODEL reads {width}; "
                "connect MODEL and CLIP of the same release."
            )
        self.weights: Mapping[str, Weight] = text_weights(clip.cond_stage_model, [QWEN])

    def ids(self, clip: Any, encoder: str, text: str) -> list[int]:
        return ids_in(clip.tokenizer, encoder, text)

    def encode(
        self,
        clip: Any,
        network: Callable[[], Any],
        text: str,
        handles: HandleVectors,
        like: Tensor,
    ) -> Prompt:
        # Handles that the CLIP knew already (Apply Concept) are found like those given here.
        handles = {**getattr(clip.tokenizer, "handles", {}), **handles}
        rows = rows_of(
            text, handles, lambda piece: ids_in(clip.tokenizer, QWEN, piece),
            lambda piece: ids_in(clip.tokenizer, T5, piece),
        )  # fmt: skip
        states = usable(qwen_states(clip, rows, handles)).to(like)
        # Encoding loads the CLIP alone, and may have sent the network away for it.
        context = adapted(network(), states, rows, handles).float()
        return Prompt(text, context, rows.tokens, content=LAYOUT.is_content(rows.tokens))


def ids_in(tokenizer: Any, encoder: str, text: str) -> list[int]:
    """Ids of a text in one of the two, without T5's end token."""
    inner = getattr(tokenizer, TOKENIZERS[encoder])
    return list(inner.tokenizer(text, add_special_tokens=False)["input_ids"])


def qwen_states(clip: Any, rows: AnimaRows, handles: HandleVectors) -> Tensor:
    """[1, L, width] what Qwen3 says of a prompt."""
    tokens = [
        row if isinstance(row, int) else vectors_of(handles, row[0], QWEN)[row[1]].clone()
        for row in rows.qwen
    ]
    pairs = {
        TOKENIZERS[QWEN]: [[(token, 1.0) for token in tokens]],
        TOKENIZERS[T5]: [[(int(i), 1.0) for i in rows.ids()[0]]],
    }
    return clip.encode_from_tokens(pairs)


def adapted(network: Any, states: Tensor, rows: AnimaRows, handles: HandleVectors) -> Tensor:
    """[1, K, width] the context of a prompt."""
    weights = torch.tensor(rows.weights).to(states)[None, :, None]
    with _splicing(network.llm_adapter.embed, rows, handles):
        context = network.preprocess_text_embeds(
            states, rows.ids().to(states.device), t5xxl_weights=weights
        )
    return padded(context)


@contextmanager
def _splicing(table: Any, rows: AnimaRows, handles: HandleVectors) -> Iterator[None]:
    """Vectors of handles in place of the rows that the adapter looks up, differentiably."""
    hook = table.register_forward_hook(
        lambda module, args, looked_up: spliced(looked_up, rows.t5, handles, T5)
    )
    try:
        yield
    finally:
        hook.remove()
