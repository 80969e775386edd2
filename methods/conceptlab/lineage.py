"""Who descends from whom: a family tree in the concept file, flat, so that it may grow long."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

LINEAGE = "lineage"  # its entry in a concept's recipe


def lineage_of(
    parents: Sequence[str], weights: Sequence[float], histories: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """The family tree of a child.

    Args:
        parents: names of the parents.
        weights: of each, summing to 1.
        histories: what this function gave for each of them; empty for photographs and for
            concepts that have no parents.

    Returns:
        generation (1 for the children of parents without parents), parents (name -> weight) and
        ancestors (name -> the same two), as JSON has it.
    """
    ancestors: dict[str, Any] = {}
    for name, history in zip(parents, histories, strict=True):
        ancestors |= history.get("ancestors", {})
        if history:
            ancestors[name] = {k: history[k] for k in ("generation", "parents")}
    oldest = max((int(history.get("generation", 0)) for history in histories), default=0)
    shares = {name: round(weight, 6) for name, weight in zip(parents, weights, strict=True)}
    return {"generation": oldest + 1, "parents": shares, "ancestors": ancestors}


def lineage_told(name: str, recipe: Mapping[str, Any]) -> list[str]:
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
