"""Handles as words that Anima's text nodes understand.

A handle has vectors for Qwen3, which come among a prompt's tokens, and for the adapter, which lies
in the MODEL and looks rows up by T5's ids. So the CLIP writes ids that no text has, and the MODEL
has the vectors in those rows of its table, as an ordinary patch.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from comfy.weight_adapter import LoRAAdapter
from torch import Tensor

from ...errors import HandleError
from ..families.anima import PAD, QWEN, ROWS, SPARE, T5
from ..families.anima_text import AnimaRows, vectors_of
from ..families.registry import token_table
from ..ports import HandleVectors, Tokens
from ..prompt_text import check_free, check_vectors, without_passages
from .anima_own_texts import REST_TOKENS
from .anima_texts import TOKENIZERS, rows_in
from .weights import Weight, original_weight

MOST_SPARE = 28  # ids that no text has
ROWS_OF_HANDLES = "conceptloom.anima_rows"  # attachment of a MODEL: handle -> ids


class KnowsHandles:
    """Mixed into the class of Anima's tokenizer: handles become vectors and spare ids."""

    handles: HandleVectors
    identities: Mapping[str, str]  # name -> identity of its concept
    spare: Mapping[str, tuple[int, ...]]  # name -> T5's ids, one for each of its vectors
    tell: Callable[[str, Any], None]
    passages: Sequence[str] = ()  # words that the surroundings of painted LoRAs do not read

    def tokenize_with_weights(self, text: str, return_word_ids: bool = False, **_: Any) -> Any:
        type(self).tell(text, self.handles)
        pairs = self._pairs(text)
        if self.passages:
            rest = self._pairs(without_passages(text, self.passages))
            pairs |= {REST_TOKENS[name]: chunks for name, chunks in rest.items()}
        if not return_word_ids:
            return pairs
        return {
            name: [[(*pair, i + 1) for i, pair in enumerate(chunk)] for chunk in chunks]
            for name, chunks in pairs.items()
        }

    def _pairs(self, text: str) -> dict[str, list[list[tuple[Any, float]]]]:
        rows, vectors = rows_in(self, text, self.handles)
        qwen = [
            row if isinstance(row, int) else vectors_of(vectors, row[0], QWEN)[row[1]]
            for row in rows.qwen
        ]
        return {
            TOKENIZERS[QWEN]: [[(token, 1.0) for token in qwen]],
            TOKENIZERS[T5]: [list(zip(spare_ids(rows, self.spare), rows.weights, strict=True))],
        }


def spare_ids(rows: AnimaRows, spare: Mapping[str, tuple[int, ...]]) -> list[int]:
    """T5's ids of a prompt, with those that stand for handles."""
    return [row if isinstance(row, int) else spare[row[0]][row[1]] for row in rows.t5]


def knowing(
    clip: Any,
    handles: HandleVectors,
    identities: Mapping[str, str],
    tell: Callable[[str, Any], None],
) -> Any:
    """A copy of an Anima CLIP's tokenizer that knows handles.

    Args:
        tell: says which words of a prompt look like handles and are none.

    Raises:
        HandleError: a handle does not fit, stands for another concept already, or the handles have
            more vectors than there are ids that no text has.
    """
    tokenizer = copy.copy(clip.tokenizer)
    before = tokenizer if isinstance(tokenizer, KnowsHandles) else None
    known = dict(before.handles) if before else {}
    named = dict(before.identities) if before else {}
    check_free(named, identities)
    embeddings = clip.cond_stage_model.qwen3_06b.transformer.get_input_embeddings()
    widths = {QWEN: embeddings.embedding_dim, T5: None}  # the adapter lies in the model
    for name, vectors in handles.items():
        check_vectors(name, vectors, widths)
        known[name] = {encoder: vectors[encoder].detach().clone() for encoder in (QWEN, T5)}
    if before is None:
        kind = type(clip.tokenizer)
        tokenizer.__class__ = type(kind.__name__, (KnowsHandles, kind), {"tell": tell})
    tokenizer.handles, tokenizer.identities = known, {**named, **identities}
    tokenizer.spare = _allotted(before.spare if before else {}, known)
    return tokenizer


def named_tokens(tokenizer: Any, ids: list[int]) -> Tokens:
    """Tokens of a context by T5's ids, with handles by name."""
    names: dict[int, str] = {}
    if isinstance(tokenizer, KnowsHandles):
        names = {number: name for name, every in tokenizer.spare.items() for number in every}
    return (*(names.get(i, i) for i in ids), *[PAD] * (ROWS - len(ids)))


def give_rows(patcher: Any, clip: Any) -> None:
    """Let a MODEL, which nobody else holds, know the handles of a CLIP.

    Raises:
        HandleError: another handle has a row already that this CLIP uses.
    """
    tokenizer = clip.tokenizer
    if not isinstance(tokenizer, KnowsHandles):
        return
    there: dict[str, tuple[int, ...]] = dict(patcher.get_attachment(ROWS_OF_HANDLES) or {})
    taken = {number: name for name, every in there.items() for number in every}
    fresh = {name: every for name, every in tokenizer.spare.items() if there.get(name) != every}
    for name, every in fresh.items():
        if other := next((taken[i] for i in every if i in taken), None):
            raise HandleError(
                f"<{name}> and <{other}> were applied to this MODEL and this CLIP in a different "
                "order; connect MODEL and CLIP through the same nodes."
            )
    if not fresh:
        return
    key = f"diffusion_model.{token_table(T5).partition('.')[2]}"
    ids = [number for every in fresh.values() for number in every]
    vectors = torch.cat([vectors_of(tokenizer.handles, name, T5) for name in fresh])
    patcher.add_patches({key: _rows_patch(patcher, key, ids, vectors)}, 1.0)
    patcher.set_attachments(ROWS_OF_HANDLES, there | fresh)


def _rows_patch(patcher: Any, key: str, ids: list[int], vectors: Tensor) -> Any:
    """What puts vectors into rows of a table, as a low-rank patch."""
    module = patcher.get_model_object(key.rpartition(".")[0])
    table = original_weight(patcher, Weight(key, module, "weight"))
    if vectors.shape[-1] != table.shape[-1]:
        raise HandleError(
            f"The concept's vectors for Anima's adapter are {vectors.shape[-1]} wide, but this "
            f"MODEL has {table.shape[-1]}; it was trained on another kind of base model."
        )
    up = torch.zeros(table.shape[0], len(ids))
    up[ids, range(len(ids))] = 1.0
    down = vectors.detach().float().cpu() - table[ids].float().cpu()
    return LoRAAdapter({key}, (up, down, float(len(ids)), None, None, None))


def _allotted(
    before: Mapping[str, tuple[int, ...]], handles: HandleVectors
) -> dict[str, tuple[int, ...]]:
    """Ids for every handle's vectors; those given before stay."""
    spare = dict(before)
    for name in handles:
        count = len(vectors_of(handles, name, T5))
        if len(spare.get(name, ())) != count:
            start = SPARE + sum(map(len, spare.values()))
            if start + count > SPARE + MOST_SPARE:
                raise HandleError(
                    f"Anima has room for {MOST_SPARE} vectors of learned words in one prompt, and "
                    f"<{name}> needs more; apply fewer concepts."
                )
            spare[name] = tuple(range(start, start + count))
    return spare
