"""Reduced copies of the vocabularies of CLIP, Qwen and T5, with the ids of the full ones.

Made once, from the files that come with ComfyUI; TinyWorld's tokenizers read what was made.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from ..dit.tokens import MARK, QWEN_SPECIAL

_GUESTS = """
mug cup cat dog bear bird fish car house tree flower book chair table lamp clock ball robot
creature statue bag shoe hat bottle bowl vase plate face swirl spiral bullseye ornament badge
emblem button coin pattern stripes dots split half two three tone shell planet monster pet
animal plant fruit sculpture figurine painting sketch style cartoon realistic small large big
tiny old new wooden metal glass stone paper water fire snow forest desert beach street city
mountain river ocean sea road room kitchen garden park field sunset night day summer winter
sitting standing lying floating wearing holding under above behind front inside near over
beside between watercolor oil pixel art beautiful colorful shiny dark bright light
brown cyan teal turquoise magenta violet gold silver heart diamond moon arrow crescent donut
hexagon blob disc wheel eye mouth petal wing leg arm head window door stripe dot check swirls
beak boat castle checks container cream ears gate handle lid mushroom roof sail stem tail teapot
trunk umbrella zigzag zigzags eyes wheels legs spiral sun clover bolt butterfly lighthouse owl
rocket train ship truck dinosaur cactus building
"""
# Words a user may put into a TinyWorld prompt, or initialise a concept with; no caption needs them,
# but the shipped vocabulary has them whole.
GUEST_WORDS = _GUESTS.split()
SPACE = "\u0120"  # how byte-level encoding writes a space
COMMON_PIECES = 2600  # T5's first pieces, by frequency
COMMON_MERGES = 2600  # CLIP's first merges, by frequency: enough for any English prompt
SPECIAL = ("<|startoftext|>", "<|endoftext|>")


def reduce_vocabulary(source: Path, target: Path, words: list[str]) -> None:
    """Write the part of CLIP's vocabulary that `words` need, with CLIP's own ids.

    Keeps the first `COMMON_MERGES` merges and every merge that is applied on the way to a
    word of `words`. Byte-pair encoding applies the best-ranked pair that is present, and
    every pair it would apply is kept, so those words get the ids of the full vocabulary.

    Args:
        source: folder with CLIP's `vocab.json` and `merges.txt`.
        target: folder for the reduced files of the same names.
        words:  lower-case words, no spaces.
    """
    vocabulary: dict[str, int] = json.loads((source / "vocab.json").read_text())
    lines = (source / "merges.txt").read_text().strip().split("\n")[1:]
    merges = [(first, second) for first, second in (line.split() for line in lines)]
    rank = {pair: i for i, pair in enumerate(merges)}
    tokens = set(range(COMMON_MERGES))
    for word in words:
        tokens |= {rank[pair] for pair in applied_merges(word, rank)}
    chosen = [merges[i] for i in sorted(tokens)]
    base = [token for token in vocabulary if len(token.removesuffix("</w>")) == 1]
    names = {*base, *(a + b for a, b in chosen), *SPECIAL}
    reduced = {name: vocabulary[name] for name in sorted(names, key=vocabulary.__getitem__)}
    target.mkdir(parents=True, exist_ok=True)
    compact = json.dumps(reduced, ensure_ascii=False, separators=(",", ":"))
    (target / "vocab.json").write_text(compact)
    text = "\n".join(["#version: 0.2", *(f"{a} {b}" for a, b in chosen)])
    (target / "merges.txt").write_text(text + "\n")


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


def applied_merges(
    word: str, rank: dict[tuple[str, str], int], ending: str = "</w>"
) -> list[tuple[str, str]]:
    """The pairs that byte-pair encoding joins, in order, to encode one word.

    Args:
        ending: what the vocabulary hangs on a word's last letter; "" for byte-level encoding.
    """
    parts = [*word[:-1], word[-1] + ending]
    applied: list[tuple[str, str]] = []
    while len(parts) > 1:
        best = min(pairwise(parts), key=lambda pair: rank.get(pair, len(rank)))
        if best not in rank:
            break
        applied.append(best)
        joined: list[str] = []
        for part in parts:
            if joined and (joined[-1], part) == best:
                joined[-1] += part
            else:
                joined.append(part)
        parts = joined
    return applied
