"""Which family a network belongs to, and what its names mean."""

from __future__ import annotations

import re
from typing import Any

from ...errors import UnsupportedModelError
from ..sites import Role, UNetSites
from . import clip
from .anima import ANIMA, COSMOS
from .family import TRANSFORMER, Family
from .single_stream import KREA_2, Z_IMAGE

# In names of files: variants that need few steps, and those that cannot be such.
DISTILLED = re.compile(
    r"(?<!de)(?<!de[-_ ])(?<!un)(?<!non)(?<!non[-_ ])(turbo|distill|lightning|tdm)", re.IGNORECASE
)
UNDISTILLED = re.compile(
    r"(base|raw|midtrain|(de|un|non)[-_ ]?(turbo|distill)|tinyworld|^zimage\.safetensors$)",
    re.IGNORECASE,
)
FAMILIES = (ANIMA, COSMOS, Z_IMAGE, KREA_2)
# In messages.
SUPPORTED = (
    "Stable Diffusion 1.x, 2.x and XL and models trained from them, Anima, Cosmos-Predict2, "
    "Z-Image and Krea 2"
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


def check_learns(sites: UNetSites, origin: str) -> str:
    """What a user should know before something is learned on a model; "" if there is nothing.

    Few-step variants have the same weights by name and shape as the model they were distilled
    from. Only what a file or folder is called tells them apart.

    Args:
        origin: what the model's file or folder is called; "" where nobody knows.

    Raises:
        UnsupportedModelError: it is a distilled variant.
    """
    if sites.joint is None:
        return ""
    family = named(sites.family)
    if DISTILLED.search(origin):
        raise UnsupportedModelError(
            f"{origin} is distilled to a few steps, which learning would undo. Learn on "
            f"{family.base}, and draw with this one: concepts of one fit the other."
        )
    if UNDISTILLED.search(origin):
        return ""
    return (
        f"{origin or 'This model'} does not tell whether it is distilled to a few steps (Turbo). "
        f"If it is, learn on {family.base} instead: learning undoes the distillation."
    )


def roles_in_transformers(weight: str) -> frozenset[Role]:
    """What the layer of a weight or bias is for, by its canonical name."""
    path = weight.rpartition(".")[0].removeprefix(f"{TRANSFORMER}.")
    known = (family for family in FAMILIES if family.part_of(path) is not None)
    family = next(known, None)  # the few names that two families share have no role in learning
    return family.roles_of(path) if family is not None else frozenset()


def exported_name(path: str) -> str:
    """Name of a layer in LoRA files that ComfyUI and diffusers both read, without a prefix.

    ComfyUI's, but where it keeps several layers in one: then diffusers' within a block.
    """
    family = next((one for one in FAMILIES if one.part_of(path) is not None), None)
    return path if family is None or not family.fused else family.diffusers_name(path)


def token_table(encoder: str) -> str:
    """Canonical name of the weight that holds an encoder's token vectors."""
    tables = (family.token_tables for family in FAMILIES)
    return next((t[encoder] for t in tables if encoder in t), clip.token_table(encoder))
