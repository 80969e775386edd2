"""Parents of an evolution, from what is connected: concepts are drawn, photographs are taken."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from ..errors import ModelError
from ..host.ports import Progress
from ..methods.conceptlab import LINEAGE, Parent
from ..training.concept import Concept
from .prior_loading import LoadedPrior

PARENT_PICTURES = 4  # drawn of each concept; the official parents have three to five


def drawn_parents(
    prior: LoadedPrior, concepts: Mapping[str, Any], progress: Progress
) -> list[Parent]:
    """Pictures of every connected concept, drawn by the prior's own painter.

    Raises:
        ModelError: nobody can draw them.
    """
    given: list[Concept] = [concept for concept in concepts.values() if concept is not None]
    if given and prior.painter is None:
        raise ModelError(
            "Nobody can draw the parents: choose a decoder in Load Diffusion Prior, or connect "
            "pictures of them instead of concepts."
        )
    parents: list[Parent] = []
    for concept in given:
        for name in concept.names:
            assert prior.painter is not None
            rows = [
                prior.painter.paint([f"a photo of a <{name}>"], concept.handles, seed, progress)
                for seed in range(1, PARENT_PICTURES + 1)
            ]
            parents.append(Parent(name, torch.cat(rows), concept.recipe.get(LINEAGE) or {}))
    return parents


def photographed(images: Mapping[str, Any]) -> list[Parent]:
    """Every connected batch is a parent."""
    given = [batch for batch in images.values() if batch is not None]
    return [
        Parent(f"photo-{i}", batch[..., :3].clone(), {}) for i, batch in enumerate(given, start=1)
    ]
