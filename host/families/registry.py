"""Which family a network belongs to, and what its names mean."""

from __future__ import annotations

from typing import Any

from ...errors import UnsupportedModelError
from ..sites import Role, UNetSites
from . import clip
from .anima import ANIMA, COSMOS
from .family import TRANSFORMER, Family
from .single_stream import KREA_2, Z_IMAGE

FAMILIES = (ANIMA, COSMOS, Z_IMAGE, KREA_2)
# In messages.
SUPPORTED = (
    "Stable Diffusion 1.x, 2.x and XL and models trained from them, Anima, Z-Image and Krea 2"
)


def family_of(network: Any) -> Family | None:
    """The family of a transformer of ComfyUI; None for any other network."""
    for kind in type(network).__mro__:
        for family in FAMILIES:
            if kind.__name__ in family.classes and family.accepts(network):
                return family
    return None


def named(name: str) -> Family:
    """The family with a name."""
    return next(family for family in FAMILIES if family.name == name)


def check_learns(sites: UNetSites) -> None:
    """Whether a concept can be learned on a network with these sites.

    Raises:
        UnsupportedModelError: not yet on its family.
    """
    if sites.joint is not None:
        family = named(sites.family)
        raise UnsupportedModelError(
            f"Learning on {family.title} is not supported yet; concepts can be learned on Stable "
            f"Diffusion and Anima. LoRAs for {family.title} work with Load LoRA (Localized). Train "
            f"them with another program on {family.base}: distilled variants lose their few steps."
        )


def roles_in_transformers(weight: str) -> frozenset[Role]:
    """What the layer of a weight or bias is for, by its canonical name."""
    path = weight.rpartition(".")[0].removeprefix(f"{TRANSFORMER}.")
    known = (family for family in FAMILIES if family.part_of(path) is not None)
    family = next(known, None)  # the few names that two families share have no role in learning
    return family.roles_of(path) if family is not None else frozenset()


def token_table(encoder: str) -> str:
    """Canonical name of the weight that holds an encoder's token vectors."""
    tables = (family.token_tables for family in FAMILIES)
    return next((t[encoder] for t in tables if encoder in t), clip.token_table(encoder))
