"""Parents of an evolution: concepts are drawn first, photographs come as they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ...errors import ModelError
from ...host.ports import Progress, no_progress
from ...training.concept import Concept
from ...vision.ports import Painter
from .lineage import LINEAGE
from .recipe import Parent
from .templates import filled

PICTURES = 4  # drawn of each concept; the official parents have three to five
_PROMPT = "a photo of a {concept}"


def drawn_parents(
    painter: Painter | None, concepts: Sequence[Concept], progress: Progress = no_progress
) -> list[Parent]:
    """A parent for every handle of the concepts, with its family tree.

    Raises:
        ModelError: nobody can draw them.
    """
    if concepts and painter is None:
        raise ModelError(
            "Nobody can draw the parents: choose a decoder for the prior, or give pictures of "
            "them instead of concepts."
        )
    parents: list[Parent] = []
    try:
        for concept in concepts:
            for name in concept.names:
                assert painter is not None
                prompt = filled(_PROMPT, f"<{name}>")
                rows = [
                    painter.paint([prompt], concept.handles, seed, progress)
                    for seed in range(1, PICTURES + 1)
                ]
                parents.append(Parent(name, torch.cat(rows), concept.recipe.get(LINEAGE) or {}))
    finally:
        if painter is not None:
            painter.park()
    return parents


def photographed_parents(batches: Mapping[str, Tensor]) -> list[Parent]:
    """A parent for every batch of pictures [n, H, W, 3 or more], by its name."""
    return [Parent(name, batch[..., :3].clone(), {}) for name, batch in batches.items()]
