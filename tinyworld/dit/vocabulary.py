"""Reduced copies of Qwen's and T5's vocabularies, with the ids of the full ones.

Made once, from the files that come with ComfyUI; `tokens` reads what was made.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from ..vocabulary import COMMON_MERGES, applied_merges

SPACE = "\u0120"  # how byte-level encoding writes a space
MARK = "\u2581"  # how T5 writes a space, and the beginning of a text
COMMON_PIECES = 2600  # T5's first pieces, by frequency: enough for any English prompt
QWEN_SPECIAL = {"<|endoftext|>": 151643, "<|im_start|>": 151644, "<|im_end|>": 151645}


def written(words: Sequence[str]) -> list[str]:
    """Every form in which a word meets an encoder: bare or after a space, with a capital or not."""
    return sorted({form for word in words for form in (word, word.capitalize())})


def reduce_qwen(source: Path, target: Path, words: Sequence[str]) -> None:
    """Write the part of Qwen's byte-pair vocabulary that `words` need, with Qwen's own ids.

    Args:
        source: folder with Qwen's `vocab.json` and `merges.txt`.
        target: folder for the reduced files of the same names.
        words:  ASCII words, no spaces. Their ids come out as from the full files: every pair
                that is applied on the way to a word is kept.
    """
    vocabulary: dict[str, int] = json.loads((source / "vocab.json").read_text(encoding="utf-8"))
    text = (source / "merges.txt").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line and not line.startswith("#version")]
    merges = [(first, second) for first, second in (line.split(" ") for line in lines)]
    rank = {pair: i for i, pair in enumerate(merges)}
    kept = set(range(COMMON_MERGES))
    for word in written(words):
        for form in (word, SPACE + word):
            kept |= {rank[pair] for pair in applied_merges(form, rank, ending="")}
    chosen = [merges[i] for i in sorted(kept)]
    names = {name for name in vocabulary if len(name) == 1} | {a + b for a, b in chosen}
    reduced = {name: vocabulary[name] for name in sorted(names, key=vocabulary.__getitem__)}
    target.mkdir(parents=True, exist_ok=True)
    _write_json(target / "vocab.json", {**reduced, **QWEN_SPECIAL})
    joined = "\n".join(["#version: 0.2", *(f"{a} {b}" for a, b in chosen)])
    (target / "merges.txt").write_text(joined + "\n", encoding="utf-8")


def reduce_t5(source: Path, target: Path, words: Sequence[str]) -> None:
    """Write the pieces of T5's unigram vocabulary that `words` need: {id: [piece, score]}.

    Args:
        source: folder with T5's `tokenizer.json`.
        target: folder for `pieces.json`.
        words:  no spaces. They are cut as by the full vocabulary: every piece is kept that occurs
                in one of them.
    """
    saved = json.loads((source / "tokenizer.json").read_text(encoding="utf-8"))
    vocabulary: list[tuple[str, float]] = saved["model"]["vocab"]
    forms = [MARK + word for word in written(words)]
    kept = {
        str(i): [piece, round(score, 4)]
        for i, (piece, score) in enumerate(vocabulary)
        if i < COMMON_PIECES or len(piece) == 1 or any(piece in form for form in forms)
    }
    target.mkdir(parents=True, exist_ok=True)
    _write_json(target / "pieces.json", kept)


def _write_json(path: Path, content: dict) -> None:
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":"))
    path.write_text(text, encoding="utf-8")
