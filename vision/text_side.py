"""Encodes a prompt with handles for a prior: hidden states, and one projected vector.

That vector is read at the end token, at its known position. Both
libraries can fail to find it with an added token: the highest id of the prompt (the official code's
sampling, transformers with its old configuration) is that of the added token.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from ..errors import PromptError
from ..host.ports import HandleVectors, Host, Tokens
from ..host.prompt_text import split_at_handles

log = logging.getLogger("conceptloom")


@dataclass(frozen=True, slots=True)
class EncodedText:
    """One prompt."""

    hidden: Tensor  # [1, K, W]
    pooled: Tensor  # [1, D] the end token's, projected where there is a projection
    mask: Tensor  # [1, K] bool, True up to the end token


class TextSide(Protocol):
    """A text encoder with its token table."""

    @property
    def encoders(self) -> Mapping[str, int]: ...

    @property
    def device(self) -> torch.device: ...

    def tokenize(self, text: str) -> Tokens: ...

    def word_vectors(self, word: str) -> dict[str, Tensor]: ...

    def encode(self, text: str, handles: HandleVectors) -> EncodedText:
        """Differentiable in the handle vectors."""
        ...

    def computing(self) -> AbstractContextManager[None]:
        """Context in which it has gradients."""
        ...


def _mask(size: int, end: int, device: torch.device) -> Tensor:
    return (torch.arange(size, device=device) <= end)[None]


class ClipText:
    """transformers' CLIPTextModelWithProjection with its tokenizer.

    Args:
        name: of its token table, as in `host.families.clip`.
        model, tokenizer: of one folder.
    """

    def __init__(self, name: str, model: Any, tokenizer: Any) -> None:
        self.name, self.model, self.tokenizer = name, model, tokenizer
        self._size: int = model.config.max_position_embeddings
        self.encoders = {name: int(self._table.weight.shape[1])}

    @property
    def _table(self) -> Any:
        return self.model.get_input_embeddings()

    @property
    def device(self) -> torch.device:
        return self._table.weight.device

    def tokenize(self, text: str) -> tuple[int, ...]:
        return tuple(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def word_vectors(self, word: str) -> dict[str, Tensor]:
        ids = torch.tensor(self.tokenize(word), dtype=torch.long, device=self.device)
        return {self.name: self._table.weight.detach()[ids].float().clone()}

    def encode(self, text: str, handles: HandleVectors) -> EncodedText:
        tokens, end = self._tokens(text, handles)
        ids = torch.tensor([[t if isinstance(t, int) else 0 for t in tokens]], device=self.device)
        with self._spliced(tokens, handles):
            hidden = self.model(input_ids=ids).last_hidden_state
        pooled = self.model.text_projection(hidden[:, end])
        return EncodedText(hidden, pooled, _mask(len(tokens), end, self.device))

    def computing(self) -> AbstractContextManager[None]:
        return nullcontext()

    def _tokens(self, text: str, handles: HandleVectors) -> tuple[list[int | tuple[str, int]], int]:
        """Start, body, end, padding; and where the end is."""
        body: list[int | tuple[str, int]] = []
        for piece, is_handle in split_at_handles(text, handles):
            if is_handle:
                body += [(piece, row) for row in range(self._rows(handles, piece).shape[0])]
            else:
                body += self.tokenize(piece)
        if len(body) > self._size - 2:
            log.warning("%r is longer than %d tokens; the rest is ignored", text, self._size - 2)
            body = body[: self._size - 2]
        padding = [int(self.tokenizer.pad_token_id)] * (self._size - 2 - len(body))
        start, end = int(self.tokenizer.bos_token_id), int(self.tokenizer.eos_token_id)
        return [start, *body, end, *padding], len(body) + 1

    def _rows(self, handles: HandleVectors, name: str) -> Tensor:
        rows = handles[name].get(self.name)
        width = self.encoders[self.name]
        if rows is None or rows.shape[-1] != width:
            encoders = ", ".join(f"{k} ({v.shape[-1]} wide)" for k, v in handles[name].items())
            raise PromptError(
                f"<{name}> has vectors for {encoders or 'no text encoder'}, but this prior reads "
                f"{self.name} ({width} wide); use the prior that the concept was trained with."
            )
        return rows.reshape(-1, width)

    @contextmanager
    def _spliced(
        self, tokens: Sequence[int | tuple[str, int]], handles: HandleVectors
    ) -> Iterator[None]:
        """Handle vectors in place of looked-up rows, for one forward pass."""

        def splice(module: Any, args: tuple[Any, ...], looked_up: Tensor) -> Tensor:
            rows = [
                looked_up[0, i]
                if isinstance(token, int)
                else self._rows(handles, token[0])[token[1]].to(looked_up)
                for i, token in enumerate(tokens)
            ]
            return torch.stack(rows)[None]

        hook = self._table.register_forward_hook(splice)
        try:
            yield
        finally:
            hook.remove()


class HostText:
    """The text encoders of a base model, behind the port of a host.

    Args:
        host: Stable Diffusion 1.x, 2.x, XL or TinyWorld, in either host.
        projection: [W, D] projection of the end token's state; None is none.
    """

    def __init__(self, host: Host, projection: Tensor | None = None) -> None:
        self.host, self._projection = host, projection

    @property
    def encoders(self) -> Mapping[str, int]:
        return self.host.encoders

    @property
    def device(self) -> torch.device:
        return self.host.device

    def tokenize(self, text: str) -> Tokens:
        return self.host.tokenize(text)

    def word_vectors(self, word: str) -> dict[str, Tensor]:
        return self.host.word_vectors(word)

    def encode(self, text: str, handles: HandleVectors) -> EncodedText:
        prompt = self.host.encode_prompt(text, handles)
        end = prompt.content.index(False, 1)  # behind the start and what is written
        hidden = prompt.context.float()
        pooled = hidden[:, end]
        if self._projection is not None:
            pooled = pooled @ self._projection.to(pooled)
        return EncodedText(hidden, pooled, _mask(hidden.shape[1], end, hidden.device))

    def computing(self) -> AbstractContextManager[None]:
        return self.host.edited({}, trainable=True)
