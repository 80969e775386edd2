"""What the oracle says of a picture that asks for one unseen object on a background."""

from __future__ import annotations

from functools import cache

import torch
from quality_tables import Measure
from torch import Tensor

from conceptloom.tinyworld.concepts import CONCEPTS, concept_scene
from conceptloom.tinyworld.oracle import load_oracle

Found = dict[str, list[float]]  # measure -> one number for each picture

MEASURES = (
    Measure(
        "likeness",
        "likeness",
        "cosine of the oracle's description with the taught object, best object found",
    ),
    Measure(
        "identity",
        "identity",
        "share of pictures in which the oracle takes it for the taught object, of "
        f"{len(CONCEPTS)} unseen ones",
    ),
    Measure("background", "background", "share of pictures on the background that was asked for"),
    Measure(
        "changed",
        "changed",
        "mean change of pixels (0..255) against the base model's picture of the same noise, where "
        "neither shows an object",
        False,
    ),
)


@cache
def references() -> dict[str, Tensor]:
    """What every unseen object of the world looks like; all but the taught ones distract."""
    truths = {name: concept_scene([name], seed=7) for name in CONCEPTS}
    return {name: load_oracle().reference(t.image, t.masks[0]) for name, t in truths.items()}


def judge(image: Tensor, plain: Tensor, name: str, place: str, into: Found) -> None:
    """Adds what a picture shows, [H, W, 3], 0..255.

    Args:
        plain: the base model's picture of the same prompt and noise.
        place: the background that was asked for.
    """
    oracle = load_oracle()
    verdict = oracle.identity(image, references(), name)
    into["likeness"].append(verdict.similarity)
    into["identity"].append(float(verdict.right))
    into["background"].append(float(oracle.background(image) == place))
    change = background_change(image, plain)
    if change is not None:
        into["changed"].append(change)


def background_change(image: Tensor, plain: Tensor) -> float | None:
    """None where the objects of both cover everything."""
    objects = [found.mask for each in (image, plain) for found in load_oracle().find(each)]
    empty = ~torch.stack([*objects, torch.zeros(image.shape[:2], dtype=torch.bool)]).any(dim=0)
    change = (image.float() - plain.float()).abs().mean(dim=-1)
    return float(change[empty].mean()) if bool(empty.any()) else None
