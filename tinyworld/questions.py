"""A question answerer that knows the truth: what BLIP-2 is to photographs, for TinyWorld.

It looks at the largest object. What the oracle's networks have no word for is "object".
"""

from __future__ import annotations

from torch import Tensor

from .oracle import Found, load_oracle
from .oracle_nets import OTHER

UNKNOWN = "object"
_COLOUR, _TEXTURE, _GROUND = ("colour", "color"), ("texture", "pattern"), ("background", "where")


class OracleVQA:
    """Answers what kind, shape, colour, texture or background a picture shows, in a word."""

    name = "tinyworld oracle"

    def answer(self, image: Tensor, question: str) -> str:
        """One word; empty where there is no object to tell of."""
        lowered, oracle = question.lower(), load_oracle()
        picture = image.detach().float().cpu()
        if any(word in lowered for word in _GROUND):
            return oracle.background(picture)
        objects = oracle.find(picture)
        return _describe(objects[0], lowered) if objects else ""

    def offload(self) -> None:
        """It lives on the CPU and is small."""


def _describe(found: Found, asked: str) -> str:
    if any(word in asked for word in _COLOUR):
        said = found.colour
    elif any(word in asked for word in _TEXTURE):
        said = found.texture
    else:
        said = found.shape
    return UNKNOWN if said == OTHER else said
