"""A learned concept: its words, its changes to the model, and its training recipe."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor

from ..errors import BaseMismatchError, HandleError
from ..host.ports import WeightEdit
from ..host.prompt_text import check_free
from .changes import Change as Change
from .changes import Diff as Diff
from .changes import LowRank as LowRank
from .changes import scale_of
from .handles import checked_name, checked_names

log = logging.getLogger("conceptloom")


_SAMPLED = 256  # values of each weight that tell concepts apart


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Concept:
    """The result of one training run; several handles if it learned several objects.

    Attributes:
        handles: name without brackets -> text encoder -> [n, width].
        weights: canonical weight name (see `host.ports`) -> its change.
        base: fingerprint of the base model that it was learned on.
        method: "break_a_scene" and the like.
        recipe: every hyperparameter, as JSON values.
        seeds: what was seeded -> seed.
        prompts: training prompts, also recommended for use.
        words: handle -> its initialiser or class word, "" for none.
        history: summary of the losses, as JSON values.
        thumbnail: [H, W, 3], 0..1, or None.
    """

    handles: Mapping[str, Mapping[str, Tensor]]
    weights: Mapping[str, Change] = field(default_factory=dict[str, "Change"])
    base: str
    method: str
    recipe: Mapping[str, Any] = field(default_factory=dict[str, Any])
    seeds: Mapping[str, int] = field(default_factory=dict[str, int])
    prompts: tuple[str, ...] = ()
    words: Mapping[str, str] = field(default_factory=dict[str, str])
    history: Mapping[str, Any] = field(default_factory=dict[str, Any])
    thumbnail: Tensor | None = None

    def __post_init__(self) -> None:
        checked_names(list(self.handles))
        for name, vectors in self.handles.items():
            for encoder, rows in vectors.items():
                if rows.ndim != 2 or not rows.shape[0]:
                    raise HandleError(
                        f"<{name}> has vectors of shape {list(rows.shape)} for {encoder}; they "
                        "must be [n, width] with at least one row."
                    )

    @property
    def names(self) -> list[str]:
        """Handles without brackets."""
        return list(self.handles)


def weight_edits(concept: Concept, strength: float = 1.0) -> dict[str, WeightEdit]:
    """Edits that apply the concept's weights; none at strength 0, so the model stays bit-equal.

    Args:
        strength: factor of every difference; 1 is as trained. Handle vectors are not scaled.
    """
    if strength == 0:
        return {}
    return {name: _edit([(change, strength)]) for name, change in concept.weights.items()}


def _edit(changes: Sequence[tuple[Change, float]]) -> WeightEdit:
    def edit(weight: Tensor) -> Tensor:
        total = weight.float()
        for change, strength in changes:
            total = total + strength * change.delta(weight.shape).to(total)
        return total.to(weight.dtype)

    return edit


@dataclass(frozen=True, slots=True)
class AppliedConcepts:
    """Several concepts at once.

    Attributes:
        handles: of all of them.
        edits: canonical weight name -> edit that adds every concept's difference.
    """

    handles: dict[str, Mapping[str, Tensor]]
    edits: dict[str, WeightEdit]


def stacked(concepts: Sequence[tuple[Concept, float]]) -> AppliedConcepts:
    """Several (concept, strength) applied together: differences add up, handles join.

    Raises:
        HandleError: two different concepts have the same handle.
        BaseMismatchError: they were trained on different base models.
    """
    handles: dict[str, Mapping[str, Tensor]] = {}
    changes: dict[str, list[tuple[Change, float]]] = {}
    known: dict[str, str] = {}
    for concept, strength in concepts:
        if not _crosses(concept.base, concepts[0][0].base):
            check_base(concept, concepts[0][0].base)
        added = identities(concept)
        check_free(known, added)
        known |= added
        handles |= concept.handles
        if strength:
            for name, change in concept.weights.items():
                changes.setdefault(name, []).append((change, strength))
    return AppliedConcepts(handles, {name: _edit(parts) for name, parts in changes.items()})


def identities(concept: Concept) -> dict[str, str]:
    """Handle -> digest of its vectors and of the concept's weights; a new name changes nothing.

    It covers vectors completely and evenly spaced values of each weight: separately trained
    weights differ almost everywhere, and may be gigabytes.
    """
    weights = hashlib.sha256()
    for name, change in sorted(concept.weights.items()):
        sizes = [list(part.shape) for part in change.tensors]
        weights.update(f"{name} {sizes} {scale_of(change)}".encode())
        for part in change.tensors:
            flat = part.detach().flatten()
            weights.update(_bytes(flat[:: max(1, len(flat) // _SAMPLED)]))
    digests: dict[str, str] = {}
    for name, vectors in concept.handles.items():
        digest = weights.copy()
        for encoder, rows in sorted(vectors.items()):
            digest.update(f"{encoder} {list(rows.shape)}".encode() + _bytes(rows.detach()))
        digests[name] = digest.hexdigest()
    return digests


def _bytes(values: Tensor) -> bytes:
    return values.cpu().float().contiguous().numpy().tobytes()


def renamed(concept: Concept, names: Mapping[str, str]) -> Concept:
    """The concept with other handles (old -> new name), also in its prompts.

    Raises:
        HandleError: no such handle, or a new name is in use or not a valid handle.
    """
    new = {checked_name(old): checked_name(name) for old, name in names.items()}
    if lost := [old for old in new if old not in concept.handles]:
        known = ", ".join(f"<{name}>" for name in concept.handles)
        raise HandleError(f"The concept has no handle <{lost[0]}>; it has {known}.")
    every = [new.get(name, name) for name in concept.handles]
    checked_names(every)

    def follow(prompt: str) -> str:
        pieces = [(f"<{old}>", f"<{name}>") for old, name in new.items()]
        marks = {old: f"\0{i}\0" for i, (old, _) in enumerate(pieces)}
        for old, mark in marks.items():
            prompt = prompt.replace(old, mark)
        for old, name in pieces:
            prompt = prompt.replace(marks[old], name)
        return prompt

    return replace(
        concept,
        handles={new.get(name, name): vectors for name, vectors in concept.handles.items()},
        words={new.get(name, name): word for name, word in concept.words.items()},
        prompts=tuple(follow(prompt) for prompt in concept.prompts),
    )


TARGETS = {"eps": "noise (eps)", "v": "velocity (v)", "flow": "a flow", "any": "something else"}


def check_applies(concept: Concept, fingerprint: str) -> None:
    """Whether a base model has the shapes of the one that the concept was learned on.

    Shapes do not depend on the prediction type, so concepts transfer between fine-tunes of a
    family, like LoRAs; a different prediction type causes a warning.

    Raises:
        BaseMismatchError: it was trained on another kind of model.
    """
    if not _crosses(concept.base, fingerprint):
        check_base(concept, fingerprint)
        return
    learned, applied = (_without_target(base)[1] for base in (concept.base, fingerprint))
    if "any" not in (learned, applied):
        log.warning(
            "<%s> was trained on a model that predicts %s, but this one predicts %s. The shapes "
            "fit, so the concept applies; if its effect is weak or oversaturated, change its "
            "strength.",
            ">, <".join(concept.handles), TARGETS[learned], TARGETS[applied],
        )  # fmt: skip


def _crosses(learned: str, applied: str) -> bool:
    """Whether two base models differ in what they predict, and in no width."""
    (widths, target), (others, other) = _without_target(learned), _without_target(applied)
    return widths == others and target != other


def _without_target(fingerprint: str) -> tuple[list[str], str]:
    """Widths of a base model, and what it predicts; the digest covers both, and is left out."""
    parts = fingerprint.split()[:-1]
    return [p for p in parts if p not in TARGETS], next((p for p in parts if p in TARGETS), "")


def check_base(concept: Concept, fingerprint: str) -> None:
    """Whether the concept fits a base model.

    Raises:
        BaseMismatchError: it was trained on another kind of model.
    """
    if concept.base != fingerprint:
        names = ", ".join(f"<{name}>" for name in concept.handles) or "(no handles)"
        raise BaseMismatchError(
            f"The concept {names} was trained on the base model [{concept.base}] but this one is "
            f"[{fingerprint}]; load a checkpoint of the same kind, or train the concept again on "
            "this one."
        )
