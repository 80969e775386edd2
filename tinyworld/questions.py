"""A question answerer that knows the truth: what BLIP-2 is to photographs, for TinyWorld.

It looks at the largest object. What the judge has no word for is "object".
"""

from __future__ import annotations

from torch import Tensor

from .judge.judge import Found, load_judge
from .judge.words import OTHER

UNKNOWN = "object"
_COLOUR, _PATTERN, _EMBLEM = ("colour", "color"), ("texture", "pattern"), ("emblem", "symbol")
_GROUND = ("background", "where")


class JudgeVQA:
    """Answers what class, colour, pattern, emblem or background a picture shows, in a word."""

    name = "tinyworld judge"

    def answer(self, image: Tensor, question: str) -> str:
        """One word; empty where there is no object to tell of."""
        lowered, judge = question.lower(), load_judge()
        picture = image.detach().float().cpu()
        if any(word in lowered for word in _GROUND):
            return judge.background(picture)
        objects = judge.find(picture)
        return _describe(objects[0], lowered) if objects else ""

    def offload(self) -> None:
        """It lives on the CPU and is small."""


def _describe(found: Found, asked: str) -> str:
    if any(word in asked for word in _COLOUR):
        said = found.colour
    elif any(word in asked for word in _PATTERN):
        said = found.words.get("pattern", OTHER)
    elif any(word in asked for word in _EMBLEM):
        said = found.words.get("emblem") or "none"
    else:
        said = found.kind
    return UNKNOWN if said == OTHER else said
