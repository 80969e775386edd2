"""Rows of a forward pass as localised LoRAs see them: pictures, words, and texts of their own."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..host.inference import usable
from ..host.ports import ForwardInfo, Tokens
from .local_lora import LocalLora


class LocalRows:
    """What one kind of pass needs; passes with the same prompts share it.

    Attributes:
        pictures: how many.
        picture_of: [B] picture of each row.
        encoded_of: [B] number of each row's prompt among those that differ.
        with_words: rows with a prompt that holds the words of some LoRA.
    """

    def __init__(self, loras: Sequence[LocalLora], info: ForwardInfo) -> None:
        n_rows = info.latent_shape[0]
        self._n_rows = n_rows
        pictures = list(info.pictures or range(n_rows))
        self.pictures = info.n_pictures
        device = info.timesteps.device
        with torch.inference_mode(False):
            self.picture_of = torch.tensor(pictures, device=device)
            self._number(info, device)
        prompts = info.prompts or ((),) * n_rows

        def columns(where: Callable[[LocalLora, Tokens], Sequence[int]]) -> list[list[list[int]]]:
            return [
                [_repeated(where(lora, tokens), tokens, info.context_length) for lora in loras]
                if info.conditional[row]
                else [[] for _ in loras]
                for row, tokens in enumerate(prompts)
            ]

        self._columns = columns(LocalLora.places)
        self._passages = columns(LocalLora.passage)
        self._painted = [g for g, lora in enumerate(loras) if lora.is_exact]
        looked_for = [g for g, lora in enumerate(loras) if not lora.is_exact]
        self.with_words = [
            row for row in range(n_rows) if any(self._columns[row][g] for g in looked_for)
        ]
        self._shown = [pictures[row] for row in self.with_words]
        self._texts, self._tokens = info.own_texts, prompts
        self._hidden: dict[object, Tensor | None] = {}

    def _number(self, info: ForwardInfo, device: torch.device) -> None:
        encoded = info.encoded or tuple(range(self._n_rows))
        numbers: dict[object, int] = {}
        first: list[int] = []
        for row, one in enumerate(encoded):
            if one not in numbers:
                numbers[one] = len(numbers)
                first.append(row)
        self._first = first  # a row of each prompt
        order = [numbers[one] for one in encoded]
        self._all_differ = order == list(range(self._n_rows))
        self.encoded_of = torch.tensor(order, device=device)

    @property
    def holds_words(self) -> bool:
        """Whether any LoRA can be looked for in this pass."""
        return bool(self.with_words)

    def chosen(self, n_keys: int, device: torch.device) -> Tensor:
        """[R, K, G]: 1 where a key belongs to the words of a LoRA, in `with_words`."""
        n_loras = len(self._columns[0])
        chosen = torch.zeros(len(self.with_words), n_keys, n_loras, device=device)
        for r, row in enumerate(self.with_words):
            for g, columns in enumerate(self._columns[row]):
                chosen[r, [c for c in columns if c < n_keys], g] = 1
        return chosen

    def by_picture(self, attention: Tensor) -> Tensor:
        """[R, G, N] of `with_words` -> [P, G, N]; several prompts of a picture: the strongest."""
        if self._shown == list(range(self.pictures)):
            return attention
        index = torch.tensor(self._shown, device=attention.device)[:, None, None]
        nothing = torch.zeros(self.pictures, *attention.shape[1:], device=attention.device)
        return nothing.scatter_reduce(0, index.expand_as(attention), attention, "amax")

    def hidden(self, g: int, n_keys: int, device: torch.device) -> Tensor | None:
        """[B, 1, 1, K]: False at the words of the other LoRAs; None where all may be read."""
        key = (g, n_keys, device)
        if key not in self._hidden:
            readable = torch.ones(self._n_rows, 1, 1, n_keys, dtype=torch.bool)
            for row, columns in enumerate(self._passages):
                own = set(columns[g])
                for other, places in enumerate(columns):
                    if other != g:
                        readable[row, ..., [c for c in places if c < n_keys and c not in own]] = (
                            False
                        )
            self._hidden[key] = None if bool(readable.all()) else readable.to(device)
        return self._hidden[key]

    def hidden_passages(self, n_keys: int, device: torch.device) -> Tensor | None:
        """[B, 1, 1, K]: False at the words of LoRAs whose place is painted; None where there are
        none."""
        key = ("passages", n_keys, device)
        if key not in self._hidden:
            readable = torch.ones(self._n_rows, 1, 1, n_keys, dtype=torch.bool)
            for row, columns in enumerate(self._passages):
                places = {c for g in self._painted for c in columns[g] if c < n_keys}
                readable[row, ..., sorted(places)] = False
            self._hidden[key] = None if bool(readable.all()) else readable.to(device)
        return self._hidden[key]

    def spread(self, by_prompt: Tensor) -> Tensor:
        """[U, ...] of the prompts that differ -> [B, ...] of the rows."""
        if self._all_differ:
            return by_prompt
        return by_prompt.index_select(0, self.encoded_of.to(by_prompt.device))

    def has_context(self, key: str) -> bool:
        """Whether some prompt was encoded in another way for a LoRA."""
        return any(key in texts for texts in self._texts)

    def own_context(self, key: str, context: Tensor) -> Tensor:
        """Contexts [U, K, width] of the prompts that differ, as one LoRA's region reads them.

        Args:
            context: [B, K, width] of the pass.
        """
        own = context[self._first]
        if not self.has_context(key):
            return own
        return torch.stack([self._own_row(key, row, own[u]) for u, row in enumerate(self._first)])

    def _own_row(self, key: str, row: int, context: Tensor) -> Tensor:
        change = self._texts[row].get(key)
        if change is None:
            return context
        fitted = _fitted(usable(change.to(context)), len(self._tokens[row]), len(context))
        # A node that blanks a prompt blanks it for every reader.
        return context + fitted * (context != 0).any(dim=-1, keepdim=True)


def _fitted(change: Tensor, n_tokens: int, n_keys: int) -> Tensor:
    """What is added to a context [n_keys, width]: repeated as the host repeats its prompt.

    Args:
        change: [1, K, width] of a prompt that another one may have been put behind.
        n_tokens: of the prompt before it was repeated; 0 is not known.
    """
    change = change.reshape(-1, change.shape[-1])
    whole = change.new_zeros(n_tokens or len(change), change.shape[-1])
    n = min(len(whole), len(change))
    whole[:n] = change[:n]
    times = -(-n_keys // len(whole))
    return whole.repeat(times, 1)[:n_keys]


def _repeated(places: Sequence[int], tokens: Tokens, context_length: int) -> list[int]:
    """Key positions of places of a prompt, in every repeat of it."""
    return [
        start + place
        for start in (range(0, context_length, len(tokens)) if tokens else ())
        for place in places
    ]
