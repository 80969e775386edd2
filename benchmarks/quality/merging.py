"""Several concepts in one model, which is what people do without a weaver."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from conceptloom.concepts.concept import Change, Concept, Diff, stacked
from conceptloom.methods.concept_weaver.prompts import marked_word


def merged_concept(concepts: Sequence[Concept]) -> Concept:
    """All concepts in one: differences add up; handles, their words and prompts join.

    Raises:
        InputError: two bring the same handle, or they were learned on different base models.
    """
    weights: dict[str, Diff] = {}
    for concept in concepts:
        for name, change in concept.weights.items():
            added = _whole(change)
            before = weights[name].tensor if name in weights else torch.zeros_like(added)
            weights[name] = Diff(before + added)
    return replace(
        concepts[0],
        handles=stacked([(concept, 1.0) for concept in concepts]).handles,
        weights=weights,
        prompts=tuple(prompt for concept in concepts for prompt in concept.prompts),
        words={name: word for concept in concepts for name, word in concept.words.items()},
    )


def _whole(change: Change) -> Tensor:
    """What is added to a weight, [out, in] where the change is of low rank."""
    if isinstance(change, Diff):
        return change.tensor
    return change.delta((change.up.shape[0], change.down[0].numel()))


def named_sentence(sentence: str, words: Mapping[str, str], merged: Concept) -> str:
    """A sentence in which every word that stands for a concept is called as the concept was taught.

    Args:
        words: handle -> its word of the sentence; a word that comes twice is taken in turn.
    """
    waiting: dict[str, list[str]] = {}
    for handle, word in words.items():
        waiting.setdefault(word.casefold(), []).append(marked_word(merged, handle, word))
    pattern = "|".join(re.escape(word) for word in sorted(waiting, key=len, reverse=True))

    def named(found: re.Match[str]) -> str:
        marked = waiting[found[0].casefold()]
        return marked.pop(0) if marked else found[0]

    return re.sub(rf"\b(?:{pattern})\b", named, sentence, flags=re.IGNORECASE)
