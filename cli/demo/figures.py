"""The demo's figures as JSON: prompts, the judge's verdicts, times."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...concepts.paths import write_atomically
from .story import Story


def write_figures(stories: Sequence[Story], seconds: Sequence[float], path: Path) -> Path:
    """Write the verdicts of all stories, and their totals.

    Args:
        seconds: how long each story took, drawing included.

    Raises:
        StorageError: the file cannot be written.
    """
    described = [_story(story, took) for story, took in zip(stories, seconds, strict=True)]
    document = {
        "as_asked": [sum(count) for count in zip(*(s.as_asked for s in stories), strict=True)],
        "seconds": round(sum(seconds), 1),
        "stories": described,
    }
    write_atomically(path, [json.dumps(document, indent=1).encode("utf-8")])
    return path


def _story(story: Story, seconds: float) -> dict[str, Any]:
    return {
        "name": story.name,
        "as_asked": list(story.as_asked),
        "seconds": round(seconds, 1),
        "samples": [
            {"asked": figure.caption, "seen": sample.seen, "as_asked": sample.is_as_asked}
            for figure, sample in story.judged
        ],
        "tables": [
            {"heads": list(table.heads), "rows": [list(row) for row in table.rows]}
            for section in story.sections
            if (table := section.table) is not None
        ],
    }
