"""Which family a network belongs to, and what its names mean."""

from __future__ import annotations

from typing import Any

from ..sites import Role
from . import clip
from .anima import ANIMA, COSMOS
from .family import TRANSFORMER, Family

FAMILIES = (ANIMA, COSMOS)
# In messages.
SUPPORTED = "Stable Diffusion 1.x, 2.x and XL and models trained from them, and Anima"


def family_of(network: Any) -> Family | None:
    """The family of a transformer of ComfyUI; None for any other network."""
    for kind in type(network).__mro__:
        for family in FAMILIES:
            if kind.__name__ in family.classes:
                return family
    return None


def roles_in_transformers(weight: str) -> frozenset[Role]:
    """What the layer of a weight or bias is for, by its canonical name."""
    path = weight.rpartition(".")[0].removeprefix(f"{TRANSFORMER}.")
    known = (family.roles_of(path) for family in FAMILIES)
    return next((roles for roles in known if roles), frozenset())


def token_table(encoder: str) -> str:
    """Canonical name of the weight that holds an encoder's token vectors."""
    tables = (family.token_tables for family in FAMILIES)
    return next((t[encoder] for t in tables if encoder in t), clip.token_table(encoder))
