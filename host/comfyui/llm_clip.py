"""Handles as words that the text nodes of Z-Image and Krea 2 understand.

A language model reads the prompt in a template; a handle's vectors come among its tokens. The
host's own mark for vectors is not used for them: it leaves out the line's end behind it, which the
template has. Marked files of vectors beside a handle are the host's business, as without one.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import torch
from torch import Tensor

from ..families.anima_text import Row, vectors_of
from ..families.llm_text import LEARNED, START_OF_TURN, rows_of
from ..ports import HandleVectors
from ..prompt_text import MARK, check_vectors, split_at_handles


class KnowsLlmHandles:
    """Mixed into the class of a tokenizer with a template: handles become vectors.

    Attributes:
        handles: name -> encoder -> [n, width].
        identities: name -> identity of its concept.
        vectors: name -> what stands for it among the tokens, one for each vector.
        encoder: the language model's name.
    """

    handles: HandleVectors
    identities: Mapping[str, str]
    vectors: Mapping[str, tuple[Tensor, ...]]
    encoder: str
    tell: Callable[[str, Any], None] | None
    llama_template: str  # the host's own

    def tokenize_with_weights(
        self, text: str, return_word_ids: bool = False, llama_template: str | None = None,
        **more: Any,
    ) -> Any:  # fmt: skip
        if self.tell is not None:
            self.tell(text, self.handles)
        if not any(is_handle for _, is_handle in split_at_handles(text, self.handles)):
            return super().tokenize_with_weights(  # type: ignore[misc]
                text, return_word_ids, llama_template=llama_template, **more
            )
        whole = text
        if not text.startswith(START_OF_TURN):
            whole = (llama_template or self.llama_template).format(text)
        files: dict[str, tuple[Tensor, ...]] = {}
        inner = getattr(self, self.encoder)
        rows = rows_of(
            whole, self.handles, self.encoder, lambda piece: _rows_of_piece(inner, piece, files)
        )
        vectors = {**self.vectors, **files}
        tokens = [row if isinstance(row, int) else vectors[row[0]][row[1]] for row in rows]
        ends = [(number + 1,) if return_word_ids else () for number in range(len(tokens))]
        pairs = [(token, 1.0, *end) for token, end in zip(tokens, ends, strict=True)]
        return {self.encoder: [pairs]}


def _rows_of_piece(inner: Any, text: str, files: dict[str, tuple[Tensor, ...]]) -> list[Row]:
    """Tokens of a text without handles, as the host's own tokenizer reads it.

    Args:
        files: takes the vectors that the text names files of, under names that no handle has.
    """
    rows: list[Row] = []
    # Behind a marked word the host takes all white space for one space: keep it off the template.
    for part in re.split(r"(?=<\|im_)", text):
        part = re.sub(rf"(?<=\s){MARK}\s*$", "", part)  # a mark without a name
        ((*pairs,),) = inner.tokenize_with_weights(part, disable_weights=True, min_length=0)
        for token, *_ in pairs:
            if isinstance(token, Tensor):
                name = f"{MARK}{len(files)}"
                files[name] = (token,)
                rows.append((name, 0))
            else:
                rows.append(int(token))
    return rows


@cache  # a prompt is encoded in every step of learning
def _kind(kind: type) -> type:
    return type(kind.__name__, (KnowsLlmHandles, kind), {})


def knowing(
    tokenizer: Any, encoder: str, handles: HandleVectors, identities: Mapping[str, str],
    tell: Callable[[str, Any], None] | None = None,
) -> Any:  # fmt: skip
    """A copy of a tokenizer that knows handles, and those that it knew.

    Args:
        tell: says which words of a prompt look like handles and are none.
    """
    knows = copy.copy(tokenizer)
    if not isinstance(tokenizer, KnowsLlmHandles):
        knows.__class__ = _kind(type(tokenizer))
        knows.handles, knows.identities, knows.vectors = {}, {}, {}
    knows.encoder, knows.tell = encoder, tell
    knows.handles = {**knows.handles, **handles}
    knows.identities = {**knows.identities, **identities}
    knows.vectors = {
        name: knows.vectors[name]
        if name in knows.vectors and name not in handles
        else tuple(vectors_of(knows.handles, name, encoder))
        for name in knows.handles
    }
    return knows


def name_of(tokenizer: Any, token: Any) -> str | None:
    """The handle that a vector among the tokens belongs to."""
    if isinstance(tokenizer, KnowsLlmHandles):
        for name, vectors in tokenizer.vectors.items():
            if any(token is vector for vector in vectors):
                return name
    return LEARNED


def checked_handles(handles: HandleVectors, encoder: str, width: int) -> HandleVectors:
    """Copies of handles' vectors for a language model.

    Raises:
        HandleError: one has none for it, or of another width.
    """
    checked: dict[str, dict[str, Tensor]] = {}
    for name, vectors in handles.items():
        check_vectors(name, vectors, {encoder: width})
        with torch.no_grad():
            checked[name] = {encoder: vectors[encoder].detach().clone()}
    return checked
