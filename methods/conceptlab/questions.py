"""Adaptive negatives: the VQA model's answers become negatives.

Source: arXiv 2308.02669, Sec. 4.3; coach.py:55-76, 256-264, 356-367. The list is in `notes`, a
JSON document saved with every state, so a resumed run has the same words.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from .config import ConceptKind, ConceptLabConfig

_LEADING = re.compile(r"^(?:(?:a|an|the|it is|it's|this is|there is)\s+)+")
_STYLE_QUESTION = "What art style was used in this photo of a horse and a barn?"


def question_for(config: ConceptLabConfig) -> str:
    """The user's question, or the paper's for the kind of concept."""
    if config.negatives.question.strip():
        return config.negatives.question.strip()
    if config.kind is ConceptKind.STYLE:
        return _STYLE_QUESTION
    return f"What kind of {config.positives[0]} is in this photo?"


def normalised(answer: str) -> str:
    """An answer as a constraint: lower case, without article and punctuation."""
    plain = re.sub(r"[^\w\s'-]+", " ", answer.lower()).replace("_", " ")
    return _LEADING.sub("", " ".join(plain.split())).strip(" '-")


def official_form(answer: str) -> str:
    """An answer in the form of the official code: without a leading "a "."""
    return answer.removeprefix("a ")


def same_word(first: str, second: str) -> bool:
    """Whether two words are equal; a plural equals its singular."""
    a, b = normalised(first), normalised(second)
    return a == b or a == f"{b}s" or b == f"{a}s"


@dataclass(frozen=True, slots=True)
class Round:
    """The result of one question about the pictures."""

    step: int
    answer: str  # as it came; "" when nobody was asked
    added: str  # the new negative, "" for none
    reason: str  # why nothing was added

    def summary(self) -> str:
        """For the user, under the pictures."""
        if self.added:
            return f"step {self.step}: now avoids {self.added}"
        return f"step {self.step}: {self.reason}" if self.reason else f"step {self.step}"


class Negatives:
    """The negatives of a concept, step by step.

    Args:
        notes: the JSON document with the words; empty for a new run.
        config: of the whole run.
    """

    def __init__(self, notes: dict[str, Any], config: ConceptLabConfig) -> None:
        self.notes, self._config = notes, config

    def begin(self) -> None:
        """Set the initial list; does nothing in a resumed run."""
        if "negatives" in self.notes:
            return
        config = self._config.negatives
        pool = list(dict.fromkeys(filter(None, map(str.strip, config.start))))
        if config.gradual:
            seeded = torch.Generator().manual_seed(self._config.seed)
            pool = [pool[i] for i in torch.randperm(len(pool), generator=seeded).tolist()]
        first = pool[:1] if config.gradual else pool
        self.notes |= {"negatives": first, "pool": pool[len(first) :], "looks": [], "quiet": 0}
        self._drop_oldest()

    @property
    def words(self) -> list[str]:
        """Current negatives, locked ones first."""
        return [*dict.fromkeys(self._config.negatives.locked), *self.notes.get("negatives", [])]

    @property
    def rounds(self) -> list[Round]:
        """All rounds so far."""
        return [Round(**row) for row in self.notes.get("looks", [])]

    @property
    def has_enough(self) -> bool:
        """Whether enough of the last answers were not new, so that the run may stop."""
        limit = self._config.negatives.early_stop
        return limit > 0 and self.notes.get("quiet", 0) >= limit

    def is_due(self, step: int) -> bool:
        """Whether a round is due after `step` steps."""
        every = self._config.negatives.every
        return every > 0 and step % every == 0 and all(one.step != step for one in self.rounds)

    def asks_at(self, step: int) -> bool:
        """Whether to ask: not at the start if a list was given (coach.py:258)."""
        initial = (*self._config.negatives.start, *self._config.negatives.locked)
        return not self._config.negatives.gradual and (step > 0 or not initial)

    def heard(self, step: int, answer: str | None) -> Round:
        """Process an answer or, without one (None), the next word of a gradual list."""
        if answer is None:
            entry = self._next_of_pool(step)
        else:
            word, reason = self._judged(answer)
            entry = Round(step, answer, word, reason)
            self.notes["quiet"] = 0 if word else self.notes["quiet"] + 1
        if entry.added:
            self.notes["negatives"].append(entry.added)
            self._drop_oldest()
        self.notes["looks"].append(
            {"step": step, "answer": entry.answer, "added": entry.added, "reason": entry.reason}
        )
        return entry

    def _judged(self, answer: str) -> tuple[str, str]:
        """The word to add, or "" and why not."""
        config, word = self._config.negatives, normalised(answer)
        if not (official_form(answer).strip() if config.keep_duplicates else word):
            return "", "the answer was empty"
        if _is_among(word, config.forbidden):
            return "", f"{word!r} is forbidden"
        if config.keep_duplicates:
            return official_form(answer), ""
        if _is_among(word, self._config.positives):
            return "", f"{word!r} is the category itself"
        if _is_among(word, self.words):
            return "", f"{word!r} is a negative already"
        return word, ""

    def _next_of_pool(self, step: int) -> Round:
        pool = self.notes["pool"]
        # The first word of a gradual list is there before the first look.
        if self._config.negatives.gradual and step > 0 and pool:
            return Round(step, "", pool.pop(0), "")
        return Round(step, "", "", "")

    def _drop_oldest(self) -> None:
        most, current = self._config.negatives.most, self.notes["negatives"]
        while most and len(self.words) > most and current:
            current.pop(0)


def _is_among(word: str, words: Sequence[str]) -> bool:
    return any(same_word(word, other) for other in words)
