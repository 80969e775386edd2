"""Anima's text side in ComfyUI: Qwen3 in the CLIP, T5's tokens and the adapter in the MODEL."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ...errors import ModelError
from ..families.anima import LAYOUT, QWEN, T5
from ..families.anima_text import AnimaRows, padded, rows_of, spliced, vectors_of
from ..ports import HandleVectors, Prompt
from ..prompt_text import MARK
from .weights import Weight, text_weights, usable

log = logging.getLogger("conceptloom")

PAD_ID = 0  # of T5
_FILE = re.compile(rf"(?<![^\s(]){MARK}(?![<\uff1c])([^\s<>:()]+)")  # a file of vectors
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
        rows, handles = rows_in(clip.tokenizer, text, handles)
        states = usable(qwen_states(clip, rows, handles)).to(like)
        # Encoding loads the CLIP alone, and may have sent the network away for it.
        context = adapted(network(), states, rows, handles).float()
        return Prompt(text, context, rows.tokens, content=LAYOUT.is_content(rows.tokens))


def rows_in(tokenizer: Any, text: str, handles: HandleVectors) -> tuple[AnimaRows, HandleVectors]:
    """A prompt's rows, and the vectors that stand in them: of handles, and of files that it names.

    A file has vectors for Qwen3 alone; T5's rows get the id that newer hosts put there.
    """
    inner, files = getattr(tokenizer, TOKENIZERS[QWEN]), dict[str, dict[str, Tensor]]()

    def named(match: re.Match[str]) -> str:
        vectors, *_, rest = inner._try_get_embedding(match[1])
        if vectors is None:
            log.warning("The embedding %s does not exist; it is left out.", match[1])
            return rest
        vectors = vectors.reshape(-1, vectors.shape[-1])
        name = f"conceptloom-file-{len(files)}"
        files[name] = {QWEN: vectors, T5: vectors}
        return f"<{name}>{rest}"

    if inner.embedding_directory is not None:
        text = _FILE.sub(named, text)
    known = {**handles, **files}
    rows = rows_of(
        text, known, lambda piece: ids_in(tokenizer, QWEN, piece),
        lambda piece: ids_in(tokenizer, T5, piece),
    )  # fmt: skip
    t5 = tuple(PAD_ID if not isinstance(row, int) and row[0] in files else row for row in rows.t5)
    return replace(rows, t5=t5), known


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
