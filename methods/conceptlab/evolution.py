"""Parents of an evolved concept, and the flat record of its ancestors in the concept file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ...concepts.concept import Concept
from ...errors import ModelError
from ...host.ports import Progress, no_progress
from ...vision.ports import ImageGenerator
from .recipe import Parent
from .templates import filled

LINEAGE = "lineage"  # its entry in a concept's recipe
PICTURES = 4  # drawn of each concept; the official parents have three to five
_PROMPT = "a photo of a {concept}"


def lineage_of(
    parents: Sequence[str], weights: Sequence[float], histories: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """The family tree of a child.

    Args:
        parents: names of the parents.
        weights: of each, summing to 1.
        histories: their own lineages; empty for photographs and for
            concepts without parents.

    Returns:
        generation (1 for the children of parents without parents), parents (name -> weight) and
        ancestors (name -> the same two), as JSON values.
    """
    ancestors: dict[str, Any] = {}
    for name, history in zip(parents, histories, strict=True):
        ancestors |= history.get("ancestors", {})
        if history:
            ancestors[name] = {k: history[k] for k in ("generation", "parents")}
    oldest = max((int(history.get("generation", 0)) for history in histories), default=0)
    shares = {name: round(weight, 6) for name, weight in zip(parents, weights, strict=True)}
    return {"generation": oldest + 1, "parents": shares, "ancestors": ancestors}


def describe_lineage(name: str, recipe: Mapping[str, Any]) -> list[str]:
    """The family tree as lines, the youngest first; empty for a concept without parents."""
    lineage = recipe.get(LINEAGE) or {}
    if not lineage:
        return []
    tree = {name: lineage, **lineage.get("ancestors", {})}
    ordered = sorted(tree, key=lambda n: -int(tree[n].get("generation", 0)))
    return [
        f"{n} (generation {tree[n]['generation']}): "
        + " + ".join(f"{share:.0%} {parent}" for parent, share in tree[n]["parents"].items())
        for n in ordered
    ]


def parents_from_concepts(
    image_generator: ImageGenerator | None,
    concepts: Sequence[Concept],
    progress: Progress = no_progress,
) -> list[Parent]:
    """A parent for every handle of the concepts, with its family tree.

    Raises:
        ModelError: there is no image generator for them.
    """
    if concepts and image_generator is None:
        raise ModelError(
            "The prior has no image generator to draw the parents; choose a decoder for it, or "
            "connect pictures instead of concepts."
        )
    parents: list[Parent] = []
    try:
        for concept in concepts:
            for name in concept.names:
                assert image_generator is not None
                prompt = filled(_PROMPT, f"<{name}>")
                rows = [
                    image_generator.paint([prompt], concept.handles, seed, progress)
                    for seed in range(1, PICTURES + 1)
                ]
                parents.append(Parent(name, torch.cat(rows), concept.recipe.get(LINEAGE) or {}))
    finally:
        if image_generator is not None:
            image_generator.offload()
    return parents


def parents_from_photographs(batches: Mapping[str, Tensor]) -> list[Parent]:
    """A parent for every batch of pictures [n, H, W, 3 or more], by its name."""
    return [Parent(name, batch[..., :3].clone(), {}) for name, batch in batches.items()]
