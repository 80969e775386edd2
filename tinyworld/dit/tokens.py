"""How the transformers read a prompt: Qwen's tokens, and T5's beside them for Anima.

Ids are those of the full vocabularies, so that a prompt means the same in both hosts. A model
stores vectors of the world's own tokens only: `Rows` tells which stored row an id has.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..captions import caption_words

HERE = Path(__file__).parent
QWEN_IDS, T5_IDS = 151936, 32128  # rows of the full token tables
MARK = "\u2581"  # how T5 writes a space, and the beginning of a text
QWEN_SPECIAL = {"<|endoftext|>": 151643, "<|im_start|>": 151644, "<|im_end|>": 151645}
QWEN_END = QWEN_SPECIAL["<|endoftext|>"]  # stands alone for an empty prompt of Anima
T5_END = 1
T5_PIECES, T5_UNKNOWN = 32100, 2  # without the spare rows at the table's end
TEMPLATE = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"  # of Z-Image
ZERO_ROWS = 512  # Anima's context is filled with zeros up to here


@cache
def qwen_tokenizer() -> Any:
    """Qwen's tokenizer with the reduced vocabulary."""
    from transformers import Qwen2Tokenizer

    return Qwen2Tokenizer.from_pretrained(str(HERE / "qwen"), local_files_only=True)


@cache
def t5_tokenizer() -> Any:
    """T5's tokenizer with the reduced vocabulary.

    Pieces that are left out keep their places, so that ids stay, under names that no text holds.
    """
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    kept = json.loads((HERE / "t5" / "pieces.json").read_text(encoding="utf-8"))
    worst = min(score for _, score in kept.values())
    pieces = [tuple(kept.get(str(i), (f"\x00{i}", worst))) for i in range(T5_PIECES)]
    tokenizer: Any = Tokenizer(models.Unigram(pieces, unk_id=T5_UNKNOWN))
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.WhitespaceSplit(),
            pre_tokenizers.Metaspace(replacement=MARK, prepend_scheme="always"),
        ]
    )
    tokenizer.decoder = decoders.Metaspace(replacement=MARK, prepend_scheme="always")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", T5_END)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="</s>", unk_token="<unk>", pad_token="<pad>"
    )


def qwen_ids(prompt: str, template: str = "{}") -> list[int]:
    """Ids of a prompt inside its template; an empty one becomes the end of text."""
    ids = qwen_tokenizer()(template.format(prompt), add_special_tokens=False).input_ids
    return list(ids) or [QWEN_END]


def t5_ids(prompt: str) -> list[int]:
    """Ids of a prompt with the end behind them."""
    return list(t5_tokenizer()(prompt).input_ids)


def t5_word(word: str) -> list[int]:
    """Ids of one word of a prompt; a comma hangs on the word before it."""
    ids = list(t5_tokenizer()(word, add_special_tokens=False).input_ids)
    return ids[1:] if word == "," else ids


def qwen_word(word: str) -> list[int]:
    """Ids of one word of a prompt, not the first; a comma hangs on the word before it."""
    text = word if word == "," else " " + word
    return list(qwen_tokenizer()(text, add_special_tokens=False).input_ids)


@dataclass(frozen=True)
class Rows:
    """Which row of a stored token table an id has.

    Attributes:
        ids:     for each stored row the ids that share it, the commonest first.
        unknown: further rows, shared by all other ids by id modulo this number.
        total:   ids of the full vocabulary.
    """

    ids: list[list[int]]
    unknown: int
    total: int

    def __len__(self) -> int:
        return len(self.ids) + self.unknown

    def of_all(self) -> Tensor:
        """[total] row of every id."""
        rows = len(self.ids) + torch.arange(self.total) % self.unknown
        for row, ids in enumerate(self.ids):
            rows[torch.tensor(ids)] = row
        return rows

    def of(self, ids: Sequence[int]) -> list[int]:
        """Rows of some ids."""
        known = self._known()
        return [known.get(i, len(self.ids) + i % self.unknown) for i in ids]

    def _known(self) -> dict[int, int]:
        return {i: row for row, ids in enumerate(self.ids) for i in ids}


def qwen_rows(unknown: int) -> Rows:
    """Rows of the world's words, of the end of text and of Z-Image's template."""
    special = [*dict.fromkeys([QWEN_END, *qwen_ids("", TEMPLATE)])]

    def bare(word: str) -> list[int]:
        return list(qwen_tokenizer()(word, add_special_tokens=False).input_ids)

    others = (bare, lambda word: qwen_word(word.capitalize()), lambda w: bare(w.capitalize()))
    return Rows(_shared(special, qwen_word, others), unknown, QWEN_IDS)


def t5_rows(unknown: int) -> Rows:
    """Rows of the world's words and of the end."""
    return Rows(
        _shared([T5_END], t5_word, (lambda word: t5_word(word.capitalize()),)), unknown, T5_IDS
    )


Encode = Callable[[str], list[int]]


def _shared(special: list[int], usual: Encode, others: Sequence[Encode]) -> list[list[int]]:
    """Ids by row: those of special tokens and words, each with the other ways to write it.

    A form that is cut like the usual one shares its rows, unless an id has a row already.
    """
    words = caption_words()
    rows = {i: [i] for i in special}
    rows.update({i: [i] for word in words for i in usual(word) if i not in rows})
    taken = set(rows)
    for encode in others:
        for word in words:
            for first, other in _pairs(usual(word), encode(word)):
                if other not in taken:
                    taken.add(other)
                    rows[first].append(other)
    return [*rows.values()]


def _pairs(usual: list[int], other: list[int]) -> list[tuple[int, int]]:
    return list(zip(usual, other, strict=True)) if len(usual) == len(other) else []
