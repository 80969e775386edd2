"""Trigger words of a LoRA, from the metadata of its file."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

MOST_TAGS = 12


@dataclass(frozen=True, slots=True)
class LoraWords:
    """Words in a file's metadata.

    Attributes:
        trigger: the trigger phrase; "" if there is none.
        tags: tags of its training captions, the most frequent first.
        title: its title; "" if there is none.
    """

    trigger: str = ""
    tags: tuple[str, ...] = ()
    title: str = ""

    @property
    def proposal(self) -> str:
        """The trigger phrase and behind it the most frequent tags, each once, with commas."""
        said = [part.strip() for part in self.trigger.split(",")]
        return ", ".join(dict.fromkeys(word for word in (*said, *self.tags) if word))


def words_of(metadata: Mapping[str, str]) -> LoraWords:
    """Trigger phrase, tags and title; damaged metadata is ignored."""
    trigger = _first(
        metadata, "modelspec.trigger_phrase", "trigger_words", "ss_trigger_words", "activation text"
    )
    title = _first(metadata, "modelspec.title", "ss_output_name", "name")
    return LoraWords(trigger, _tags(metadata.get("ss_tag_frequency", "")), title)


def _first(metadata: Mapping[str, str], *keys: str) -> str:
    for key in keys:
        value = metadata.get(key)
        if isinstance(value, str) and value.strip() and value.strip().lower() != "none":
            return value.strip()
    return ""


def _tags(text: str) -> tuple[str, ...]:
    """Of kohya's count: folder of pictures -> tag -> number."""
    try:
        folders: Any = json.loads(text) if text else {}
    except (ValueError, RecursionError):
        return ()
    counted: Counter[str] = Counter()
    for tags in folders.values() if isinstance(folders, dict) else ():
        for tag, number in tags.items() if isinstance(tags, dict) else ():
            if isinstance(number, int | float) and str(tag).strip():
                counted[str(tag).strip()] += int(number)
    return tuple(tag for tag, _ in counted.most_common(MOST_TAGS))
