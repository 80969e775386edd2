"""Words to use a LoRA with, as its file tells them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

MOST_TAGS = 12


@dataclass(frozen=True, slots=True)
class LoraWords:
    """What a file's metadata says about itself.

    Attributes:
        trigger: the phrase that its maker names; "" where there is none.
        tags: what its training pictures were captioned with, the most frequent first.
        title: what it is called; "" where it is not.
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
    """Trigger phrase, tags and title; metadata that is damaged tells nothing and stops nothing."""
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
