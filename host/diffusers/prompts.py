"""Prompts for transformers' CLIP text encoders: handles as vectors, any length, several encoders.

Long prompts are cut into windows of 77 as ComfyUI does it, so that both hosts see the same tokens:
a run of fewer than eight tokens is not torn apart, a longer one fills the window to its end.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...errors import PromptError
from ..families.clip import CHUNK
from ..ports import HandleVectors
from ..prompt_text import split_at_handles, weighted_pieces
from ..uncompiled import uncompiled
from .placement import execution_device

KEPT_TOGETHER = 8  # runs shorter than this move to the next window as a whole

Token = int | tuple[str, int]  # BPE id, or one vector of a handle: (name, row)
Weighted = tuple[Token, float]  # a token and how much it counts


@dataclass(frozen=True, slots=True)
class TextEncoder:
    """One CLIP text encoder with its tokenizer.

    Attributes:
        name: "clip_l", "clip_g" or "clip_h".
        penultimate: take the last hidden state but one (SDXL), else the last one.
        projected: give the pooled, projected output too (SDXL's clip_g).
    """

    name: str
    model: Any
    tokenizer: Any
    penultimate: bool = False
    projected: bool = False

    @property
    def table(self) -> Any:
        """The token embedding, an `nn.Embedding`."""
        return self.model.get_input_embeddings()

    @property
    def width(self) -> int:
        return self.table.weight.shape[1]

    def ids(self, text: str) -> list[int]:
        """BPE ids without start, end and padding."""
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def windows(self, text: str, handles: HandleVectors) -> list[list[Weighted]]:
        """The prompt in windows of 77, with start, end and padding."""
        runs: list[list[Weighted]] = []
        for part, weight in weighted_pieces(text):
            for piece, is_handle in split_at_handles(part, handles):
                tokens: list[Token] = [*self.ids(piece)] if not is_handle else []
                if is_handle:
                    n_rows = self.vectors(handles, piece).shape[0]
                    tokens = [(piece, row) for row in range(n_rows)]
                runs.append([(token, weight) for token in tokens])
        return [self._window(body) for body in _packed(runs, CHUNK - 2)]

    def _window(self, body: Sequence[Weighted] = ()) -> list[Weighted]:
        start, end = self.tokenizer.bos_token_id, self.tokenizer.eos_token_id
        padding = [self.tokenizer.pad_token_id] * (CHUNK - 2 - len(body))
        return [(start, 1.0), *body, *((token, 1.0) for token in (end, *padding))]

    def vectors(self, handles: HandleVectors, name: str) -> Tensor:
        """[n, width] vectors of a handle for this encoder."""
        if self.name not in handles[name]:
            raise PromptError(
                f"<{name}> has no vectors for the text encoder {self.name} (it has "
                f"{', '.join(handles[name])}); the concept was trained on another kind of base "
                "model. Load a model of its family."
            )
        vectors = handles[name][self.name]
        return vectors.reshape(-1, vectors.shape[-1])

    def encode(
        self, windows: Sequence[Sequence[Weighted]], handles: HandleVectors
    ) -> tuple[Tensor, Tensor | None]:
        """Context [1, 77 n, width] and the pooled output [1, width] of the first window.

        A weight moves a token's vector along the line from the empty prompt's, as ComfyUI does it:
        z <- z_empty + weight (z - z_empty). The pooled output has no weights.
        """
        weights = torch.tensor([[weight for _, weight in window] for window in windows])
        is_weighted = bool((weights != 1).any())
        encoded = [*windows, self._window()] if is_weighted else windows
        tokens = [[token for token, _ in window] for window in encoded]
        ids = torch.tensor([[t if isinstance(t, int) else 0 for t in window] for window in tokens])
        ids = ids.to(execution_device(self.model))
        with self._spliced(tokens, handles):
            output = self.model(input_ids=ids, output_hidden_states=self.penultimate)
        hidden = output.hidden_states[-2] if self.penultimate else output.last_hidden_state
        pooled = output.text_embeds[:1] if self.projected else None
        if is_weighted:
            empty, hidden = hidden[-1:], hidden[:-1]
            factor = weights.to(hidden)[..., None]
            hidden = torch.where(factor == 1, hidden, empty + factor * (hidden - empty))
        return hidden.reshape(1, -1, hidden.shape[-1]), pooled

    @contextmanager
    def _spliced(
        self, windows: Sequence[Sequence[Token]], handles: HandleVectors
    ) -> Iterator[None]:
        """Handle vectors in place of the looked-up rows, differentiably, for one forward pass."""

        def splice(module: Any, args: tuple[Any, ...], looked_up: Tensor) -> Tensor:
            rows = [
                torch.stack(
                    [
                        looked_up[i, j]
                        if isinstance(token, int)
                        else self.vectors(handles, token[0])[token[1]].to(looked_up)
                        for j, token in enumerate(window)
                    ]
                )
                for i, window in enumerate(windows)
            ]
            return torch.stack(rows)

        if all(isinstance(token, int) for window in windows for token in window):
            yield
            return
        hook = self.table.register_forward_hook(splice)
        try:
            with uncompiled:
                yield
        finally:
            hook.remove()


def _packed(runs: Sequence[list[Weighted]], size: int) -> list[list[Weighted]]:
    """Runs of tokens laid into windows of at most `size`."""
    windows: list[list[Weighted]] = [[]]
    for run in runs:
        torn_apart = len(run) >= KEPT_TOGETHER
        while run:
            room = size - len(windows[-1])
            if len(run) <= room:
                windows[-1].extend(run)
                break
            if torn_apart:
                windows[-1].extend(run[:room])
                run = run[room:]
            windows.append([])
    return windows
